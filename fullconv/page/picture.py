"""The image as a browser shows it: three bands of 8 bits in sRGB, or one; read from top to bottom, never held whole."""

import math
from dataclasses import replace
from typing import IO

import numpy as np

from fullconv.common.libvips import pyvips
from fullconv.errors import ImageError
from fullconv.grid import ImageInfo
from fullconv.heatmap.backdrop import STRETCH, WHITE, open_page
from fullconv.images import ArraySource, ScoredPixels

MAX_PIXELS = 1 << 30
"""Number of pixels from which an image is shown smaller."""
SAMPLE = 1024
"""Length of an image's longer side at which the percentiles of its values are taken."""
FORMATS = {"uint8": "uchar", "uint16": "ushort", "int16": "short", "float32": "float"}
"""libvips's names of numpy's types."""
ROWS = 64
"""Least number of rows of an array that are copied at once."""


def colour_picture(pixels: ScoredPixels, image: ImageInfo, spool: IO[bytes]) -> pyvips.Image:
    """Return the image, or the region that was scored, of at most MAX_PIXELS.

    Values that are not of 8 bits are stretched, as in heatmaps. `spool` is a temporary file for arrays that are not in
    memory. Raises ImageError or pyvips.Error if the image cannot be read again.
    """
    if isinstance(pixels.source, ArraySource):
        pixels = replace(pixels, source=_mapped(pixels.source, spool))
    picture = _selected(pixels, image)
    if picture.format == "uchar":
        picture = _srgb(picture)
    else:
        low, high = _percentiles(_shown_bands(_selected(pixels, image)))
        scale = WHITE / (high - low) if high > low else 0.0
        offset = -low * scale if high > low else WHITE
        picture = _shown_bands(picture).linear(scale, offset, uchar=True)
    picture = picture.copy(interpretation="srgb" if picture.bands == 3 else "b-w")
    step = 2 ** math.ceil(math.log(max(1, picture.width * picture.height / MAX_PIXELS), 4))
    return picture.shrink(step, step) if step > 1 else picture


def _selected(pixels: ScoredPixels, image: ImageInfo) -> pyvips.Image:
    """Return the bands and the region of an image that were scored."""
    picture = _array(pixels.source) if isinstance(pixels.source, ArraySource) else _file(pixels, image)
    if pixels.region is not None:
        picture = picture.crop(*pixels.region)
    if pixels.bands:
        bands = [picture[band - 1] for band in pixels.bands]
        picture = bands[0].bandjoin(bands[1:]).copy(interpretation="srgb" if len(bands) == 3 else "multiband")
    return picture


def _file(pixels: ScoredPixels, image: ImageInfo) -> pyvips.Image:
    """Return an encoded file, turned upright; a turned image is held by libvips, in memory or on disk."""
    try:
        picture = open_page(pixels, image, "sequential")
        if picture.get_typeof("orientation") and picture.get("orientation") > 1:
            picture = open_page(pixels, image).autorot()
    except OSError as error:
        raise ImageError(f"{pixels.source.name}: cannot be read again: {error.strerror or error}") from None
    return picture


def _mapped(source: ArraySource, spool: IO[bytes]) -> ArraySource:
    """Return the same pixels in the order that libvips reads, copied into the file if they have another order."""
    pixels, dtype, height = source.pixels, source.dtype.newbyteorder("="), source.shape[0]
    if isinstance(pixels, np.ndarray) and pixels.flags.c_contiguous and pixels.dtype.isnative:
        return source
    each = max(ROWS, source.chunk_rows)
    for first in range(0, height, each):
        spool.write(np.ascontiguousarray(source.read(first, min(first + each, height)), dtype).data)
    spool.flush()
    return replace(source, pixels=np.memmap(spool, dtype, "r", shape=source.shape))


def _array(source: ArraySource) -> pyvips.Image:
    """Return the pixels of an array of numpy, which are not copied."""
    height, width, bands = source.shape
    data = source.read(0, height).data
    picture = pyvips.Image.new_from_memory(data, width, height, bands, FORMATS[source.dtype.name])
    return picture.copy(interpretation="multiband") if bands > 3 else picture  # no band is alpha


def _srgb(picture: pyvips.Image) -> pyvips.Image:
    """Return 8-bit pixels in sRGB or in grey, laid over white where they are transparent."""
    if picture.hasalpha() and picture.bands != 3:
        picture = picture.flatten(background=WHITE)
    if picture.interpretation == "cmyk" or picture.get_typeof("icc-profile-data"):
        picture = picture.icc_transform("srgb", embedded=True, input_profile="cmyk" if picture.bands == 4 else "srgb")
    return _shown_bands(picture)


def _shown_bands(picture: pyvips.Image) -> pyvips.Image:
    """Return the first three bands, or the first of one or two."""
    return picture.extract_band(0, n=3 if picture.bands > 2 else 1)


def _percentiles(picture: pyvips.Image) -> tuple[float, float]:
    """Return the values that become black and white."""
    sample = picture.resize(min(1.0, SAMPLE / max(picture.width, picture.height))).numpy()
    known = sample[np.isfinite(sample)]
    if not known.size:
        return 0.0, 0.0
    low, high = np.percentile(known, STRETCH)
    return float(low), float(high)
