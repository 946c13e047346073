"""Slides in scanners' own formats, read by OpenSlide for the background of a heatmap; needs the extra `slides`."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fullconv.common.libvips import pyvips
from fullconv.errors import ImageError
from fullconv.images import Region

BAND = 64
"""Number of rows of the picture that are read together."""
NOT_SCANNERS = (None, "generic-tiff")
"""Results of OpenSlide's format detection that are not a scanner's own format."""


def is_slide(path: Path) -> bool:
    """Return whether a file is a slide that OpenSlide reads; False without OpenSlide."""
    try:
        import openslide  # noqa: PLC0415 (an extra)
    except ImportError:
        return False
    return path.is_file() and openslide.OpenSlide.detect_format(path) not in NOT_SCANNERS  # it would wait for a pipe


def slide_picture(path: Path, region: Region, size: tuple[int, int]) -> pyvips.Image:
    """Return the region of a slide as RGB at about (width, height) pixels or larger, white where it has no tile.

    Raises ImageError for a damaged slide.
    """
    import openslide  # noqa: PLC0415 (an extra)

    try:
        with openslide.OpenSlide(path) as slide:
            return pyvips.Image.new_from_array(_pixels(slide, region, size))
    except openslide.OpenSlideError as error:
        raise ImageError(f"{path}: cannot be read again: {error}") from None


def _pixels(slide: Any, region: Region, size: tuple[int, int]) -> np.ndarray:  # noqa: ANN401 (OpenSlide's)
    """Return a region (height, width, 3) from the level of the pyramid that suffices, reduced band by band."""
    factor = max(1.0, min(region.width / size[0], region.height / size[1]))
    level = slide.get_best_level_for_downsample(factor)
    scale = slide.level_downsamples[level]
    width, height = max(1, int(region.width / scale)), max(1, int(region.height / scale))
    reduce = max(1, int(factor / scale))
    bands = []
    for top in range(0, height, BAND * reduce):
        corner = region.x, region.y + round(top * scale)
        rows = slide.read_region(corner, level, (width, min(BAND * reduce, height - top)))
        white = Image.new("RGBA", rows.size, "white")
        bands.append(np.asarray(Image.alpha_composite(white, rows).convert("RGB").reduce(reduce)))
    return np.vstack(bands)
