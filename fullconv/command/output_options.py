"""The options of `fullconv-score` that say which files are written, and what they hold, with their help."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fullconv.command.grid_options import GridLine
from fullconv.command.outputs import Outputs
from fullconv.command.parsing import class_names, folder_name
from fullconv.command.style import style_of
from fullconv.command.usage import usage_errors
from fullconv.common.files import TABLE_SUFFIXES
from fullconv.file_options import FILE_DEFAULTS, check_file_options
from fullconv.objects.rule import ObjectOptions
from fullconv.options import Options
from fullconv.style import DEFAULT_STYLE, HeatmapStyle


@dataclass(frozen=True)
class OutputLine(GridLine):
    """What is scored, how, and which files are written, as Typer parses it."""

    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT",
            help="Write a value of every window to this file; may be given several times. .npz and .zarr: the "
            "network's scores as arrays. .csv and .parquet: a line for each window with its box and the probability of "
            "each class. .geojson: a tile for each window, for QuPath. .tif: a raster with a band for each class, with "
            "the georeference of the image.",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Write only windows whose highest probability is at least P, such as 0.5, to .csv, .parquet and "
            ".geojson. For a model without probabilities: the highest score. Default: all windows. For --boxes: the "
            "smallest probability, or score, of an object. Default: 0.5; a model without probabilities has no default.",
        ),
    ] = None
    heatmap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT.png|OUT.jpg|OUT.webp|OUT.tif",
            help="Draw the scores over the image, and write this picture; may be given several times. It shows the "
            "probability of one class, or the class with the highest score in each window. .tif: a pyramid of the "
            "image's own size, without legend, for viewers of slides. Others: at most 4096 pixels on the longer side.",
        ),
    ] = None
    heatmap_class: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The class that the heatmap shows, given as a label or an index. Default: the only class of the model "
            "or of --classes; for a model with two classes, the second; for other models, the class with the highest "
            "score in each window.",
        ),
    ] = None
    heatmap_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Colour only windows whose value in the heatmap is at least P: the value of the shown class, or of "
            "the class with the highest score. Default: all windows.",
        ),
    ] = None
    colormap: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Colour map of matplotlib for the heatmap, such as magma. Default: YlOrRd for one class, or viridis.",
        ),
    ] = None
    opacity: Annotated[
        float, typer.Option(metavar="X", help="Largest opacity of the heatmap's colours, from 0 to 1.")
    ] = DEFAULT_STYLE.opacity
    no_legend: Annotated[
        bool, typer.Option("--no-legend", help="Draw the heatmap without colour bar and legend, in the image's size.")
    ] = False
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="Draw only the heatmap's colours, with transparency, for .png, .webp and .tif."),
    ] = DEFAULT_STYLE.overlay
    heatmap_scale: Annotated[
        float, typer.Option(metavar="X", help="Size of the heatmap as .tif: a factor of the image's size, at most 1.")
    ] = DEFAULT_STYLE.scale
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT.geojson|OUT.csv",
            help="Find objects, and write the box, the class and the probability of each object to this file; may be "
            "given several times. An object is a window whose probability of a class is at least --threshold and the "
            "highest among its neighbours, and that overlaps no better object of this class by more than --overlap. "
            "The classes are those of --classes. Default: the second of two classes, otherwise all classes. With "
            "several --scales, objects are found at every scale; the image is scored again for each further scale.",
        ),
    ] = None
    overlap: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Largest intersection over union of the boxes of two objects of the same class. Default: 0.3.",
        ),
    ] = None
    across_classes: Annotated[
        bool,
        typer.Option(
            "--across-classes",
            help="Drop an object that overlaps a better object of any class. Default: drop it only if the better "
            "object has the same class.",
        ),
    ] = False
    box_output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model's further output (fullconv-convert --also) that holds the offsets of the box from the "
            "window: left, top, right, bottom, as shares of its width and height. Default: the box is the window.",
        ),
    ] = None
    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=folder_name,
            help="Write outputs whose names have no folder into this folder, which is made if it does not exist. The "
            "outputs of an image in a sub-folder go into a sub-folder of the same name. Default: the current folder.",
        ),
    ] = None
    table: Annotated[
        str | None,
        typer.Option(
            metavar="OUT.csv|OUT.parquet",
            help="Write a table with a line for each image: its size, the mode, the number of windows, the average of "
            "each class, the class with the highest average, or the error.",
        ),
    ] = None
    html: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT.html",
            help="Write a page for a browser, which needs no network; may be given several times. It shows the image "
            "with the scores over it, the best regions and the averages. The image is inside the file, or, if it has "
            "more than 4 megapixels, in the folder OUT_files beside it.",
        ),
    ] = None
    open_pages: Annotated[
        bool, typer.Option("--open", help="Open the pages that --html writes in the browser, at most 10 of them.")
    ] = False

    def __post_init__(self) -> None:
        """Exit with status 2 for options that contradict each other."""
        super().__post_init__()
        self._check_files()

    def _check_files(self) -> None:
        """Exit with status 2 for options of files that are not written, and for values that do not suit the files."""
        for option, value, needed, outputs in (
            ("--heatmap-class", self.heatmap_class, "--heatmap", self.heatmap),
            ("--overlap", self.overlap, "--boxes", self.boxes),
            ("--across-classes", self.across_classes or None, "--boxes", self.boxes),
            ("--box-output", self.box_output, "--boxes", self.boxes),
            ("--open", self.open_pages or None, "--html", self.html),
        ):
            if value is not None and not outputs:
                raise typer.BadParameter(f"expected {needed} with it, got none", param_hint=option)
        names = [
            *(self.grid or ()),
            *(self.heatmap or ()),
            *(self.boxes or ()),
            *(self.html or ()),
            *([self.table] if self.table is not None else ()),
        ]
        if self.output_dir is not None and self.output_dir.is_file():
            raise typer.BadParameter(f"expected a folder, got the file {self.output_dir}", param_hint="--output-dir")
        if self.output_dir is not None and all("/" in name for name in names):
            raise typer.BadParameter(
                "expected --grid, --heatmap, --boxes, --html or --table with it, with a name without a folder; got "
                "none",
                param_hint="--output-dir",
            )
        self.style()
        tables = [name for name in self.grid or () if Path(name).suffix.lower() in TABLE_SUFFIXES]
        if self.threshold is not None and not tables and not self.boxes:
            raise typer.BadParameter(
                "expected --boxes, or --grid OUT.csv, OUT.parquet or OUT.geojson with it, got none",
                param_hint="--threshold",
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise typer.BadParameter(f"expected a finite number, got {self.threshold}", param_hint="--threshold")
        if self.grid_top != FILE_DEFAULTS["grid_top"] and self.grid_as != "top":
            raise typer.BadParameter(
                f"expected --grid-as top with it, got {self.grid_as or 'none'}", param_hint="--grid-top"
            )
        with usage_errors():
            check_file_options(self.grid or (), {**self.file_options(), "threshold": None})

    def options(self) -> Options:
        """Return the options of a request, without the mask; exit status 2 for text that cannot be parsed."""
        return {**super().options(), "grid": bool(self.grid or self.heatmap or self.boxes or self.html)}

    def outputs(self, folders: Mapping[Path, Path]) -> Outputs:
        """Return the files to write; `folders` are those of images that were found (`Inputs.folders`)."""
        return Outputs(
            grids=tuple(self.grid or ()),
            files=self.file_options(),
            heatmaps=tuple(self.heatmap or ()),
            heatmap_class=self.heatmap_class,
            style=self.style(),
            boxes=tuple(self.boxes or ()),
            object_options=self.object_options(),
            pages=tuple(self.html or ()),
            table=self.table,
            output_dir=self.output_dir,
            folders=folders,
        )

    def style(self) -> HeatmapStyle:
        """Return the style of heatmaps; exit status 2 for values that are invalid."""
        return style_of(
            self.heatmap or (),
            threshold=self.heatmap_threshold,
            colormap=self.colormap,
            opacity=self.opacity,
            legend=not self.no_legend,
            overlay=self.overlay,
            scale=self.heatmap_scale,
        )

    def object_options(self) -> ObjectOptions:
        """Return the options of objects."""
        options = ObjectOptions(classes=class_names(self.classes), across_classes=self.across_classes)
        if self.threshold is not None:
            options["threshold"] = self.threshold
        if self.overlap is not None:
            options["overlap"] = self.overlap
        if self.box_output is not None:
            options["box_output"] = self.box_output
        return options
