"""The options that say what the files of grids hold, with their help."""

from dataclasses import dataclass
from typing import Annotated

import typer

from fullconv.command.options import ScoringLine
from fullconv.common.names import CoordinatesName, GridAsName
from fullconv.file_options import FILE_DEFAULTS, FileOptions


@dataclass(frozen=True)
class GridLine(ScoringLine):
    """What is scored, how, and what files of grids hold, as Typer parses it."""

    grid_as: Annotated[
        GridAsName | None,
        typer.Option(
            help="What files of grids hold. scores: the network's scores of every class. float16: the same, as "
            "float16 (.npz, .zarr, .tif). probability: the probability of every class. top: the classes with the "
            "highest scores of each window. argmax: the class with the highest score; .tif then has one band of "
            "classes, with their colours and names. Default: scores in .npz and .zarr, otherwise probability.",
        ),
    ] = None
    grid_top: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=1_000_000, help="Number of classes of each window for --grid-as top."),
    ] = FILE_DEFAULTS["grid_top"]
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Write one polygon for neighbouring windows of the same class to .geojson, with the number of "
            "windows. Needs rasterio. Default: a polygon for each window.",
        ),
    ] = FILE_DEFAULTS["merge"]
    coordinates: Annotated[
        CoordinatesName,
        typer.Option(
            help="Coordinates in .geojson. pixels: pixels of the image, for QuPath. map: coordinates of the GeoTIFF's "
            "coordinate system, for QGIS."
        ),
    ] = FILE_DEFAULTS["coordinates"]
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Write only windows whose highest probability is at least P, such as 0.5, to tables and .geojson. For "
            "a model without probabilities: the highest score. Default: all windows.",
        ),
    ] = None

    def file_options(self) -> FileOptions:
        """Return what files of grids hold."""
        known = FileOptions(threshold=self.threshold, merge=self.merge, coordinates=self.coordinates)
        return {**known, "grid_as": self.grid_as, "grid_top": self.grid_top}
