"""The image as a grey picture, on which the colours stand out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.common.libvips import pyvips
from fullconv.errors import ImageError
from fullconv.grid import ImageInfo
from fullconv.images import ArraySource, EncodedSource, FileSource, Region, ScoredPixels

WHITE = 255
MAX_PAGES = 100
"""Largest number of a file's pages that are searched for the page that was scored."""
STRETCH = 1, 99
"""Percentiles that become black and white, for pixels that are not 8 bits wide."""
Grey = NDArray[np.uint8]


def blank(size: tuple[int, int]) -> Grey:
    """Return a white picture of (width, height) pixels."""
    return np.full((size[1], size[0]), WHITE, np.uint8)


def grey_picture(pixels: ScoredPixels, image: ImageInfo, size: tuple[int, int]) -> Grey:
    """Return an image, or the region that was scored, in grey at (width, height) pixels.

    `image` is the image that was scored, whose size tells its page from thumbnails in the same file. Raises ImageError
    if the image cannot be read again: slides and rasters that libvips does not read, pipes, and files that are gone.
    """
    name = pixels.source.name or "image"
    try:
        source = pixels.source
        picture = _array(pixels, source, size) if isinstance(source, ArraySource) else _file(pixels, image, size)
        if pixels.bands:
            bands = [picture[band - 1] for band in pixels.bands]
            picture = bands[0].bandjoin(bands[1:]).copy(interpretation="srgb" if len(bands) == 3 else "multiband")
        if picture.format != "uchar":
            picture = picture.resize(size[0] / picture.width, vscale=size[1] / picture.height)
            return _stretched(picture.numpy(), size)
        return _grey(picture.thumbnail_image(size[0], height=size[1], size="force", export_profile="srgb"))
    except pyvips.Error:
        raise ImageError(f"{name}: cannot be read again") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read again: {error.strerror or error}") from None


def _file(pixels: ScoredPixels, image: ImageInfo, size: tuple[int, int]) -> pyvips.Image:
    """Return the region of an encoded file, or a thumbnail of the whole file, which may be decoded faster."""
    picture = open_page(pixels, image)
    first = not (picture.get_typeof("page-number") and picture.get("page-number"))
    if picture.format == "uchar" and pixels.region is None and first and not pixels.bands:
        return pyvips.Image.thumbnail_source(
            _open(pixels), size[0], height=size[1], size="force", export_profile="srgb"
        )
    picture = picture.autorot()
    return picture if pixels.region is None else picture.crop(*pixels.region)


def open_page(pixels: ScoredPixels, image: ImageInfo, access: str = "random") -> pyvips.Image:
    """Return the page that was scored: the requested page, or the first page of the image's size.

    `access` is libvips's: with "sequential", the pixels can be read once, from top to bottom.
    """
    first = pyvips.Image.new_from_source(_open(pixels), "", fail_on="warning", access=access)
    pages = first.get("n-pages") if first.get_typeof("n-pages") else 1
    numbers = [pixels.page - 1] if pixels.page else range(min(MAX_PAGES, pages)) if pages > 1 else []
    for page in numbers:
        picture = pyvips.Image.new_from_source(_open(pixels), "", page=page, fail_on="warning", access=access).copy()
        if pixels.page or {picture.width, picture.height} == {image.width, image.height}:
            picture.set_type(pyvips.GValue.gint_type, "page-number", page)
            return picture
    return first


def _open(pixels: ScoredPixels) -> pyvips.Source:
    """Open an encoded file at its beginning."""
    match pixels.source:
        case FileSource(path=path):
            if path.exists() and not path.is_file():
                raise ImageError(f"{pixels.source.name}: cannot be read again: expected a file, got a pipe or a folder")
            with path.open("rb") as file:  # libvips would take [...] at the end of a name for its own options
                return pyvips.Source.new_from_descriptor(file.fileno())
        case EncodedSource(data=data):
            return pyvips.Source.new_from_memory(data)
    raise TypeError(pixels.source)


def _array(pixels: ScoredPixels, source: ArraySource, size: tuple[int, int]) -> pyvips.Image:
    """Return the region of an array, thinned to about the picture's resolution."""
    height, width, _ = source.shape
    region = pixels.region or Region(0, 0, width, height)
    step = max(1, min(region.width // size[0], region.height // size[1]))
    down = slice(region.y, region.y + region.height, step)
    across = slice(region.x, region.x + region.width, step)
    array: Any = source.pixels  # numpy's and Zarr's arrays both take two slices
    try:
        thinned = np.asarray(array[down, across])
    except Exception as error:  # Zarr's codecs raise exceptions of many kinds
        raise ImageError(f"{source.label}: cannot be read again: {error}") from None
    bands = thinned.reshape(*thinned.shape[:2], -1)
    picture = pyvips.Image.new_from_array(np.ascontiguousarray(bands, bands.dtype.newbyteorder("=")))
    return picture.copy(interpretation="multiband") if picture.bands > 3 else picture  # no band is alpha


def _grey(picture: pyvips.Image) -> Grey:
    """Return the luma of 8-bit pixels, laid over white where they are transparent."""
    if picture.hasalpha() and picture.bands in (2, 4):
        picture = picture.flatten(background=WHITE)
    if picture.bands > 3:
        picture = picture.extract_band(0, n=3)
    luma = picture.copy(interpretation="srgb" if picture.bands == 3 else "b-w").colourspace("b-w")
    pixels: Grey = luma.numpy()
    return pixels.reshape(pixels.shape[0], pixels.shape[1])


def _stretched(pixels: NDArray[np.generic], size: tuple[int, int]) -> Grey:
    """Return the mean of at most three bands, stretched from black to white; white if all pixels are equal.

    `pixels` has about the wanted size, (width, height).
    """
    rows, cols = (np.arange(wanted) * there // wanted for wanted, there in zip(size[::-1], pixels.shape, strict=False))
    bands = np.atleast_3d(pixels)[rows][:, cols]
    grey: NDArray[np.float32] = bands[..., : 3 if bands.shape[2] > 2 else 1].astype(np.float32).mean(axis=-1)
    known = grey[np.isfinite(grey)]
    low, high = (float(end) for end in np.percentile(known, STRETCH)) if known.size else (0.0, 0.0)
    if high == low:
        return np.full(grey.shape, WHITE, np.uint8)
    share = np.nan_to_num((grey - low) / (high - low), posinf=1, neginf=0)
    return np.asarray(np.clip(share, 0, 1) * WHITE, np.uint8)
