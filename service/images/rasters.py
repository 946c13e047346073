"""Rasters that are no TIFF files, through rasterio, with their nodata as a mask; the extra `rasters`.

Formats that name other files or servers (VRT and the like) are not opened.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window

from service.errors import ImageError
from service.images.arrays import open_array
from service.images.picture import PageSelection, Picture
from service.images.pixels import SampleArray

DRIVERS = {".img": "HFA", ".jp2": "JP2OpenJPEG", ".ntf": "NITF"}


@dataclass(frozen=True)
class RasterRows:
    """The rows of a raster's bands."""

    name: str
    raster: rasterio.DatasetReader

    @property
    def block_rows(self) -> int:
        """Those of a block."""
        return int(self.raster.block_shapes[0][0])

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) as (rows, width, bands); raises ImageError where they cannot be decoded."""
        with _said_as(self.name):
            bands: SampleArray = self.raster.read(window=_window(self.raster, first, stop))
        return np.moveaxis(bands, 0, -1)


@dataclass(frozen=True)
class DataMaskRows:
    """Where a raster has data."""

    name: str
    raster: rasterio.DatasetReader

    @property
    def block_rows(self) -> int:
        """Those of a block."""
        return int(self.raster.block_shapes[0][0])

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Rows [first, stop) as (rows, width, 1), 255 where no band is nodata or NaN, else 0."""
        with _said_as(self.name):
            masks: NDArray[np.uint8] = self.raster.read_masks(window=_window(self.raster, first, stop))
            if self.raster.dtypes[0].startswith("float"):
                masks[np.isnan(self.raster.read(window=_window(self.raster, first, stop)))] = 0
        rows: NDArray[np.uint8] = masks.min(axis=0)[..., None]
        return rows


def open_raster(path: Path, name: str, selection: PageSelection) -> Picture | None:
    """A raster of a format that is read in no other way; None for any other file."""
    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        return None

    def begin() -> rasterio.DatasetReader:
        """Open it anew: pixels and mask are read by two threads, and GDAL's data sets are for one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # where pixels lie on Earth does not matter
            return rasterio.open(path, driver=driver)

    try:
        raster = begin()
    except RasterioIOError:
        return None
    partly = raster.dtypes[0].startswith("float") or any(
        MaskFlags.all_valid not in flags and MaskFlags.alpha not in flags for flags in raster.mask_flag_enums
    )
    if ColorInterp.palette in raster.colorinterp:
        raise ImageError(f"{name}: expected bands of colours or values, got a palette: save the image as RGB")
    shape = (raster.height, raster.width, raster.count)
    valid = (lambda: DataMaskRows(name, begin())) if partly else None
    picture = open_array(name, shape, raster.dtypes[0], lambda: RasterRows(name, begin()), selection)
    bits = raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    white = picture.samples.white if bits is None or picture.samples.white is None else (1 << int(bits)) - 1
    alpha = raster.colorinterp.index(ColorInterp.alpha) if ColorInterp.alpha in raster.colorinterp else None
    return replace(picture, open_data_mask=valid, samples=replace(picture.samples, white=white, alpha=alpha))


def _window(raster: rasterio.DatasetReader, first: int, stop: int) -> Window:
    return Window(0, first, raster.width, stop - first)


@contextmanager
def _said_as(name: str) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise ImageError(f"{name}: cannot be decoded: {error}") from None
