"""Whole-slide images in scanners' own formats and in DICOM, read by OpenSlide; needs the extra `slides`."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from service.errors import ImageError
from service.images.arrays import open_array
from service.images.optics import optics_of
from service.images.picture import PageSelection, Picture

BLOCK_COLUMNS = 1024
"""Columns that are read together: OpenSlide returns four bytes per pixel and decodes whole tiles."""
NOT_SCANNERS = (None, "generic-tiff")
"""Results of OpenSlide's format detection that are not a scanner's own format."""

SEVERAL_FILES = ("dicom", "hamamatsu", "mirax")
"""Formats whose slides are several files, except Hamamatsu's .ndpi, which is a TIFF file."""
TIFF = (b"II", b"MM")


@dataclass(frozen=True)
class SlideRows:
    """Reads the rows of a level of a slide as RGB, white where the slide has no tile; a `SampleReader`."""

    name: str
    slide: openslide.OpenSlide
    level: int
    block_rows: int = 256

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Return rows [first, stop) as (rows, cols, 3); raises ImageError if a tile cannot be decoded."""
        width = self.slide.level_dimensions[self.level][0]
        factor = self.slide.level_downsamples[self.level]
        rows = np.empty((stop - first, width, 3), np.uint8)
        for left in range(0, width, BLOCK_COLUMNS):
            size = (min(BLOCK_COLUMNS, width - left), stop - first)
            try:
                region = self.slide.read_region((round(left * factor), round(first * factor)), self.level, size)
            except openslide.OpenSlideError as error:
                raise ImageError(f"{self.name}: cannot be decoded: {error}") from None
            white = Image.new("RGBA", size, "white")
            rows[:, left : left + size[0]] = np.asarray(Image.alpha_composite(white, region).convert("RGB"))
        return rows


def open_slide(path: Path, name: str, selection: PageSelection, *, alone: bool = False) -> Picture | None:
    """Open a slide in a scanner's own format; returns None for other files. Raises ImageError for a damaged slide.

    `alone`: refuse slides that consist of several files, since OpenSlide looks for them beside the path.
    """
    maker = openslide.OpenSlide.detect_format(path)
    if maker in NOT_SCANNERS:
        return None
    if alone and maker in SEVERAL_FILES and not _is_tiff(path):
        raise ImageError(
            f"{name}: expected a slide in one file, got {maker}; score it in this process, without --server"
        )
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise ImageError(f"{path}: cannot be read as a slide: {error}") from None

    def open_level(level: int) -> Picture:
        width, height = slide.level_dimensions[level]
        rows = partial(SlideRows, name, slide, level)
        return replace(open_array(name, (height, width, 3), "uint8", rows, selection), resampled=level > 0)

    properties = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y, openslide.PROPERTY_NAME_OBJECTIVE_POWER)
    optics = optics_of(*(slide.properties.get(name) for name in properties))
    copies = tuple(map(open_level, range(1, slide.level_count)))
    return replace(open_level(0), optics=optics, copies=copies)


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in TIFF
