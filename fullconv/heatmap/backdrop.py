"""The image as a grey picture for the colours to stand out on; white where it cannot be read again."""

from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from fullconv.errors import ImageError
from fullconv.images import open_array
from fullconv.protos import scoring_pb2

WHITE = 255
PAGES = 100
"""Pages of a file that are looked at for the one that was scored."""
STRETCH = 1, 99
"""Percentiles that become black and white, for pixels that are not 8 bits wide."""
Grey = NDArray[np.uint8]


def backdrop(
    image: Path, options: scoring_pb2.ScoreOptions, whole: scoring_pb2.ImageInfo, size: tuple[int, int]
) -> Grey:
    """An image file or an array, or the region of it that was scored, as a grey picture of (width, height) pixels.

    `whole` is the image that was scored, which tells its page from thumbnails in the same file.

    Nothing but the picture depends on it: slides and rasters that libvips does not read, and pipes, are white.
    """
    region = options.region if options.HasField("region") else None
    try:
        array = open_array(image)
        picture = _file(image, options, whole, region, size) if array is None else _array(array, region, size)
        if options.bands:
            bands = [picture[band - 1] for band in options.bands]
            picture = bands[0].bandjoin(bands[1:]).copy(interpretation="srgb" if len(bands) == 3 else "multiband")
        if picture.format != "uchar":
            picture = picture.resize(size[0] / picture.width, vscale=size[1] / picture.height)
            return _stretched(picture.numpy(), size)
        return _grey(picture.thumbnail_image(size[0], height=size[1], size="force", export_profile="srgb"))
    except (pyvips.Error, ImageError, OSError):
        return np.full((size[1], size[0]), WHITE, np.uint8)


def _file(
    image: Path,
    options: scoring_pb2.ScoreOptions,
    whole: scoring_pb2.ImageInfo,
    region: scoring_pb2.Region | None,
    size: tuple[int, int],
) -> pyvips.Image:
    """The region of an image file; of the whole file a thumbnail, which may be read faster."""
    if not image.is_file():
        raise ImageError(f"{image}: a pipe, which can be read once")
    picture = _page(image, options.page, whole)
    first = not (picture.get_typeof("page-number") and picture.get("page-number"))
    if picture.format == "uchar" and region is None and first and not options.bands:
        return pyvips.Image.thumbnail_source(
            _source(image), size[0], height=size[1], size="force", export_profile="srgb"
        )
    picture = picture.autorot()
    return picture if region is None else picture.crop(region.x, region.y, region.width, region.height)


def _page(image: Path, number: int, whole: scoring_pb2.ImageInfo) -> pyvips.Image:
    """The page that was scored: the one asked for, or the first of the image's size."""
    first = pyvips.Image.new_from_source(_source(image), "", fail_on="warning")
    pages = first.get("n-pages") if first.get_typeof("n-pages") else 1
    numbers = [number - 1] if number else range(min(PAGES, pages)) if pages > 1 else []
    for page in numbers:
        picture = pyvips.Image.new_from_source(_source(image), "", page=page, fail_on="warning").copy()
        if number or {picture.width, picture.height} == {whole.width, whole.height}:
            picture.set_type(pyvips.GValue.gint_type, "page-number", page)
            return picture
    return first


def _source(image: Path) -> pyvips.Source:
    """A file, whatever its name looks like."""
    with image.open("rb") as file:
        return pyvips.Source.new_from_descriptor(file.fileno())


def _array(
    pixels: Any,  # noqa: ANN401 (of numpy or Zarr, which both take two slices)
    region: scoring_pb2.Region | None,
    size: tuple[int, int],
) -> pyvips.Image:
    """The region of an array, without the rows and columns that the picture has no room for."""
    height, width = pixels.shape[:2]
    region = region or scoring_pb2.Region(width=width, height=height)
    step = max(1, min(region.width // size[0], region.height // size[1]))
    down = slice(region.y, region.y + region.height, step)
    across = slice(region.x, region.x + region.width, step)
    try:
        thinned = np.asarray(pixels[down, across])
    except Exception as error:  # Zarr's codecs raise kinds of their own
        raise ImageError(f"image: cannot be read: {error}") from None
    bands = thinned.reshape(*thinned.shape[:2], -1)
    picture = pyvips.Image.new_from_array(np.ascontiguousarray(bands, bands.dtype.newbyteorder("=")))
    return picture.copy(interpretation="multiband") if picture.bands > 3 else picture  # no band is alpha


def _grey(picture: pyvips.Image) -> Grey:
    """The luma of 8-bit pixels, over white where they are transparent."""
    if picture.hasalpha() and picture.bands in (2, 4):
        picture = picture.flatten(background=WHITE)
    if picture.bands > 3:
        picture = picture.extract_band(0, n=3)
    luma = picture.copy(interpretation="srgb" if picture.bands == 3 else "b-w").colourspace("b-w")
    pixels: Grey = luma.numpy()
    return pixels.reshape(pixels.shape[0], pixels.shape[1])


def _stretched(pixels: NDArray[np.generic], size: tuple[int, int]) -> Grey:
    """The mean of the first bands of pixels of about this size, spread from black to white; equal ones are white."""
    rows, cols = (np.arange(wanted) * there // wanted for wanted, there in zip(size[::-1], pixels.shape, strict=False))
    bands = np.atleast_3d(pixels)[rows][:, cols]
    grey: NDArray[np.float32] = bands[..., : 3 if bands.shape[2] > 2 else 1].astype(np.float32).mean(axis=-1)
    known = grey[np.isfinite(grey)]
    low, high = (float(end) for end in np.percentile(known, STRETCH)) if known.size else (0.0, 0.0)
    if high == low:
        return np.full(grey.shape, WHITE, np.uint8)
    share = np.nan_to_num((grey - low) / (high - low), posinf=1, neginf=0)
    return np.asarray(np.clip(share, 0, 1) * WHITE, np.uint8)
