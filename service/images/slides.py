"""Whole-slide images in scanners' own formats, read by OpenSlide at full resolution; needs the extra `slides`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from service.errors import ImageError
from service.images.arrays import open_array
from service.images.picture import PageSelection, Picture

BLOCK_COLUMNS = 1024
"""Columns that are read together: OpenSlide returns four bytes per pixel and decodes whole tiles."""
NOT_SCANNERS = (None, "generic-tiff")
"""Results of OpenSlide's format detection that are not a scanner's own format."""


@dataclass(frozen=True)
class SlideRows:
    """Reads the rows of a slide as RGB, white where the slide has no tile; a `SampleReader`."""

    name: str
    slide: openslide.OpenSlide
    block_rows: int = 256

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Return rows [first, stop) as (rows, cols, 3); raises ImageError if a tile cannot be decoded."""
        width = self.slide.dimensions[0]
        rows = np.empty((stop - first, width, 3), np.uint8)
        for left in range(0, width, BLOCK_COLUMNS):
            size = (min(BLOCK_COLUMNS, width - left), stop - first)
            try:
                region = self.slide.read_region((left, first), 0, size)
            except openslide.OpenSlideError as error:
                raise ImageError(f"{self.name}: cannot be decoded: {error}") from None
            white = Image.new("RGBA", size, "white")
            rows[:, left : left + size[0]] = np.asarray(Image.alpha_composite(white, region).convert("RGB"))
        return rows


def open_slide(path: Path, name: str, selection: PageSelection) -> Picture | None:
    """Open a slide in a scanner's own format; returns None for other files. Raises ImageError for a damaged slide."""
    if openslide.OpenSlide.detect_format(path) in NOT_SCANNERS:
        return None
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise ImageError(f"{path}: cannot be read as a slide: {error}") from None
    width, height = slide.dimensions
    return open_array(name, (height, width, 3), "uint8", lambda: SlideRows(name, slide), selection)
