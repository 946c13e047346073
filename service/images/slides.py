"""Whole-slide images in the scanners' own formats, through OpenSlide at full resolution; the extra `slides`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from service.errors import ImageError
from service.images.arrays import open_array
from service.images.picture import PageSelection, Picture

BLOCK = 1024
"""Columns that are read at once: OpenSlide gives four bytes a pixel, and decodes whole tiles."""
OTHERS = (None, "generic-tiff")
"""Not a scanner's own format."""


@dataclass(frozen=True)
class SlideRows:
    """The rows of a slide, as RGB; what no tile covers is white."""

    name: str
    slide: openslide.OpenSlide
    block_rows: int = 256

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Rows [first, stop) as (rows, width, 3); raises ImageError where a tile cannot be decoded."""
        width = self.slide.dimensions[0]
        rows = np.empty((stop - first, width, 3), np.uint8)
        for left in range(0, width, BLOCK):
            size = (min(BLOCK, width - left), stop - first)
            try:
                region = self.slide.read_region((left, first), 0, size)
            except openslide.OpenSlideError as error:
                raise ImageError(f"{self.name}: cannot be decoded: {error}") from None
            white = Image.new("RGBA", size, "white")
            rows[:, left : left + size[0]] = np.asarray(Image.alpha_composite(white, region).convert("RGB"))
        return rows


def open_slide(path: Path, name: str, selection: PageSelection) -> Picture | None:
    """A slide in one of the scanners' formats; None for any other file. Raises ImageError if it cannot be opened."""
    if openslide.OpenSlide.detect_format(path) in OTHERS:
        return None
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise ImageError(f"{path}: cannot be read as a slide: {error}") from None
    width, height = slide.dimensions
    return open_array(name, (height, width, 3), "uint8", lambda: SlideRows(name, slide), selection)
