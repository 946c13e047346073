"""Rasters in formats other than TIFF, read by rasterio, with nodata as the data mask; needs the extra `rasters`.

Formats whose files refer to other files or to servers, such as VRT, are not opened.
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
from service.images.pixels import BandLayout, SampleArray

DRIVERS = {".img": "HFA", ".jp2": "JP2OpenJPEG", ".ntf": "NITF"}
"""GDAL's drivers by the suffix of the file."""


@dataclass(frozen=True)
class RasterRows:
    """Reads the rows of a raster's bands; a `SampleReader`."""

    name: str
    raster: rasterio.DatasetReader

    @property
    def block_rows(self) -> int:
        """Height of a block."""
        return int(self.raster.block_shapes[0][0])

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, cols, bands); raises ImageError if they cannot be decoded."""
        with _as_image_error(self.name):
            bands: SampleArray = self.raster.read(window=_window(self.raster, first, stop))
        return np.moveaxis(bands, 0, -1)


@dataclass(frozen=True)
class RasterDataMask:
    """Reads where a raster has data; a `RowReader`."""

    name: str
    raster: rasterio.DatasetReader

    @property
    def block_rows(self) -> int:
        """Height of a block."""
        return int(self.raster.block_shapes[0][0])

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Return rows [first, stop) as (rows, cols, 1): 255 where no band is nodata or NaN, else 0."""
        with _as_image_error(self.name):
            masks: NDArray[np.uint8] = self.raster.read_masks(window=_window(self.raster, first, stop))
            if self.raster.dtypes[0].startswith("float"):
                masks[np.isnan(self.raster.read(window=_window(self.raster, first, stop)))] = 0
        rows: NDArray[np.uint8] = masks.min(axis=0)[..., None]
        return rows


def open_raster(path: Path, name: str, selection: PageSelection) -> Picture | None:
    """Open a raster in a format that only rasterio reads; returns None for other files. Raises ImageError."""
    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        return None

    def open_dataset() -> rasterio.DatasetReader:
        """Open the file again: pixels and mask are read in two threads, and a GDAL dataset is not thread-safe."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # scoring does not need coordinates on Earth
            return rasterio.open(path, driver=driver)

    try:
        raster = open_dataset()
    except RasterioIOError:
        return None
    if ColorInterp.palette in raster.colorinterp:
        raise ImageError(f"{name}: expected bands of colours or values, got a palette; save the image as RGB")
    shape = (raster.height, raster.width, raster.count)
    picture = open_array(name, shape, raster.dtypes[0], lambda: RasterRows(name, open_dataset()), selection)
    open_data_mask = (lambda _: RasterDataMask(name, open_dataset())) if _may_lack_data(raster) else None
    return replace(picture, open_data_mask=open_data_mask, layout=_layout(raster, picture.layout))


def _may_lack_data(raster: rasterio.DatasetReader) -> bool:
    """Return whether pixels may be NaN, or masked otherwise than by alpha."""
    return raster.dtypes[0].startswith("float") or any(
        MaskFlags.all_valid not in flags and MaskFlags.alpha not in flags for flags in raster.mask_flag_enums
    )


def _layout(raster: rasterio.DatasetReader, layout: BandLayout) -> BandLayout:
    """Return the layout with the number of bits and the alpha band that the raster names."""
    bits = raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    white = layout.white if bits is None or layout.white is None else (1 << int(bits)) - 1
    alpha = raster.colorinterp.index(ColorInterp.alpha) if ColorInterp.alpha in raster.colorinterp else None
    return replace(layout, white=white, alpha=alpha)


def _window(raster: rasterio.DatasetReader, first: int, stop: int) -> Window:
    return Window(0, first, raster.width, stop - first)


@contextmanager
def _as_image_error(name: str) -> Iterator[None]:
    """Raise errors of rasterio as ImageError."""
    try:
        yield
    except RasterioError as error:
        raise ImageError(f"{name}: cannot be decoded: {error}") from None
