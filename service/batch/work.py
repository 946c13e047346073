"""What every worker of a job needs to know; it can be sent to other machines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fullconv.command.map_region import MapRegion
from fullconv.file_options import FileOptions
from fullconv.options import Options
from service.engine.backend import REFERENCE, Backend

SUFFIXES: Mapping[str, str] = {"npz": ".npz", "zarr": ".zarr", "geotiff": ".tif", "geojson": ".geojson"}
"""The suffix of each kind of grids."""
TILE_MIB = 2048
"""Default of the memory for the activations of one tile, in MiB. It does not follow from the machine, so that all
machines compute the same bytes."""


@dataclass(frozen=True)
class Work:
    """How the images of a job are scored, and what is written."""

    model: str
    version: str
    options: Options
    """The options of every image, without the mask."""
    out: str
    """The place of the results: a URL or an absolute path."""
    folder: str
    """The folder to which the paths of images and of a mask are relative."""
    mask: str | None = None
    """A file's name, which may contain {stem}, or "otsu"."""
    map_region: MapRegion | None = None
    """The region of a map in which windows are scored."""
    grids: str = ""
    """The kind of the grids, one of SUFFIXES; empty: none are written."""
    files: FileOptions = field(default_factory=FileOptions)
    """What the files of grids hold."""
    wide: bool = False
    """Whether each class has a column of its own."""
    backend: Backend = REFERENCE
    """Computes the networks, unless servers score."""
    tile_mib: int = TILE_MIB
    """Largest memory for the activations of one tile, in MiB, unless servers score."""

    def terms(self, weights_sha256: str) -> dict[str, Any]:
        """Return what decides about the results, for the job's document."""
        model = {"name": self.model, "version": self.version, "weights_sha256": weights_sha256}
        region = None if self.map_region is None else asdict(self.map_region)
        computed = {**asdict(self.backend), "tile_mib": self.tile_mib}
        options = {**self.options, "map_region": region, "mask": self.mask, "grids": self.grids, **self.files}
        return {"model": model, "options": {**options, "wide": self.wide, **computed}}

    @property
    def grid_suffix(self) -> str:
        """The suffix of the grids' files; empty: none are written."""
        return SUFFIXES[self.grids] if self.grids else ""
