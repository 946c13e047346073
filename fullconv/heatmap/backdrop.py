"""The image as a grey picture, on which the colours stand out.

Files are read from top to bottom, and from the smallest level of a pyramid that is not smaller than the picture, so
that the memory does not grow with the image. Only an image that EXIF rotates is held whole, with one byte per pixel of
the picture; and a region of such an image is cut out of a temporary file. Slides that libvips does not read (but
OpenSlide), and Zarr arrays, are read at about LONGEST pixels at most, and enlarged for a larger picture.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from fullconv.common.libvips import pyvips
from fullconv.errors import ImageError
from fullconv.grid import ImageInfo
from fullconv.heatmap.layout import LONGEST
from fullconv.heatmap.levels import level_options
from fullconv.heatmap.slides import is_slide, slide_picture
from fullconv.images import ArraySource, EncodedSource, FileSource, Region, ScoredPixels

WHITE = 255
MAX_PAGES = 100
"""Largest number of a file's pages that are searched for the page that was scored."""
STRETCH = 1, 99
"""Percentiles that become black and white, for pixels that are not 8 bits wide."""
UPRIGHT = 1
"""The EXIF orientation of an image that is not rotated."""
SIDEWAYS = range(5, 9)
"""The EXIF orientations that swap width and height."""
Size = tuple[int, int]
"""Width and height in pixels."""


def blank(size: Size) -> pyvips.Image:
    """Return a white picture of (width, height) pixels."""
    return (pyvips.Image.black(*size) + WHITE).cast("uchar")


def grey_picture(pixels: ScoredPixels, image: ImageInfo, size: Size) -> pyvips.Image:
    """Return an image, or the region that was scored, in grey at (width, height) pixels.

    `image` is the image that was scored, whose size tells its page from thumbnails in the same file. Pictures of at
    most LONGEST pixels are read at once, larger ones when they are written, once and from top to bottom. Raises
    ImageError if the image cannot be read again: rasters that libvips does not read, pipes, and files that are gone.
    """
    name = pixels.source.name or "image"
    try:
        grey = _grey(pixels, image, size)
        return grey.copy_memory() if max(size) <= LONGEST else grey
    except pyvips.Error:
        raise ImageError(f"{name}: cannot be read again") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read again: {error.strerror or error}") from None


def _grey(pixels: ScoredPixels, image: ImageInfo, size: Size) -> pyvips.Image:
    """Return the image in grey, read from top to bottom; an image that EXIF rotates is rotated last."""
    source = pixels.source
    if isinstance(source, ArraySource):
        return _toned(lambda wanted: _selected(pixels, _array(pixels, source, wanted)), size)
    if isinstance(source, FileSource) and is_slide(source.path) and not _is_readable(pixels, image):
        region = pixels.region or Region(0, 0, image.width, image.height)
        slide = slide_picture(source.path, region, _reduced(size))
        return _toned(lambda _: _selected(pixels, slide), size)
    if max(size) > LONGEST and not _is_readable(pixels, image):  # an error while it is written would come too late
        raise ImageError(f"{source.name or 'image'}: cannot be read again")
    page = open_page(pixels, image)
    rotated = pixels.region is None and _orientation(page) != UPRIGHT
    stored = size[::-1] if rotated and _orientation(page) in SIDEWAYS else size
    grey = _toned(lambda wanted: _selected(pixels, _file(pixels, page, wanted)), stored)
    return grey.copy_memory().autorot() if rotated else grey


def _is_readable(pixels: ScoredPixels, image: ImageInfo) -> bool:
    """Return whether libvips reads a page of the image's size, and not only its header."""
    try:
        page = open_page(pixels, image)
        options = {"page": _number(page)} if _number(page) else {}
        pyvips.Image.new_from_source(_open(pixels), "", access="sequential", **options).crop(0, 0, 1, 1).avg()
    except pyvips.Error:
        return False
    return {page.width, page.height} == {image.width, image.height}


def _file(pixels: ScoredPixels, page: pyvips.Image, size: Size) -> pyvips.Image:
    """Return a page, or its region, at about the given size or larger."""
    region = pixels.region
    if region is not None and _orientation(page) != UPRIGHT:
        return page.autorot().crop(*region)
    options = _options(pixels, page, size)
    whole = region is None and not options and not pixels.bands
    if whole and page.format == "uchar" and max(size) <= LONGEST:  # which may be decoded faster, at a smaller size
        return pyvips.Image.thumbnail_source(
            _open(pixels), size[0], height=size[1], size="force", export_profile="srgb", no_rotate=True
        )
    picture = pyvips.Image.new_from_source(_open(pixels), "", access="sequential", **options)
    if region is None:
        return picture
    scales = picture.width / page.width, picture.height / page.height
    left, top, width, height = (round(length * scale) for length, scale in zip(region, scales * 2, strict=True))
    left, top = min(left, picture.width - 1), min(top, picture.height - 1)
    return picture.crop(left, top, max(1, min(width, picture.width - left)), max(1, min(height, picture.height - top)))


def _options(pixels: ScoredPixels, page: pyvips.Image, size: Size) -> dict[str, int]:
    """Return the options by which libvips reads a page, or the level of a TIFF file that suffices for the size."""
    number = _number(page)
    if not page.get("vips-loader").startswith("tiff"):
        return {"page": number} if number else {}
    if _orientation(page) != UPRIGHT or page.get("n-pages") > MAX_PAGES:
        return {"page": number}
    width, height = (page.width, page.height) if pixels.region is None else pixels.region[2:]
    with _stream(pixels) as file:
        return level_options(file, number, min(width / size[0], height / size[1]))


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


def _number(page: pyvips.Image) -> int:
    """Return the position of a page in its file, counted from 0."""
    return int(page.get("page-number")) if page.get_typeof("page-number") else 0


def _orientation(picture: pyvips.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8."""
    return int(picture.get("orientation")) if picture.get_typeof("orientation") else UPRIGHT


def _open(pixels: ScoredPixels) -> pyvips.Source:
    """Open an encoded file at its beginning."""
    if isinstance(pixels.source, EncodedSource):
        return pyvips.Source.new_from_memory(pixels.source.data)
    with _stream(pixels) as file:  # libvips would take [...] at the end of a name for its own options
        return pyvips.Source.new_from_descriptor(file.fileno())


def _stream(pixels: ScoredPixels) -> BinaryIO:
    """Open an encoded file at its beginning, for other libraries."""
    match pixels.source:
        case FileSource(path=path):
            if path.exists() and not path.is_file():
                raise ImageError(f"{pixels.source.name}: cannot be read again: expected a file, got a pipe or a folder")
            return path.open("rb")
        case EncodedSource(data=data):
            return BytesIO(data)
    raise TypeError(pixels.source)


def _array(pixels: ScoredPixels, source: ArraySource, size: Size) -> pyvips.Image:
    """Return the region of an array, thinned to about the picture's resolution.

    An array that is not numpy's has at most about LONGEST pixels, since its pixels are held in memory.
    """
    height, width, _ = source.shape
    region = pixels.region or Region(0, 0, width, height)
    array: Any = source.pixels  # numpy's and Zarr's arrays both take two slices
    size = size if isinstance(array, np.ndarray) else _reduced(size)
    step = max(1, min(region.width // size[0], region.height // size[1]))
    down = slice(region.y, region.y + region.height, step)
    across = slice(region.x, region.x + region.width, step)
    try:
        thinned = np.asarray(array[down, across])
    except Exception as error:  # Zarr's codecs raise exceptions of many kinds
        raise ImageError(f"{source.label}: cannot be read again: {error}") from None
    bands = thinned.reshape(*thinned.shape[:2], -1)
    picture = pyvips.Image.new_from_array(np.ascontiguousarray(bands, bands.dtype.newbyteorder("=")))
    return picture.copy(interpretation="multiband") if picture.bands > 3 else picture  # no band is alpha


def _selected(pixels: ScoredPixels, picture: pyvips.Image) -> pyvips.Image:
    """Return the bands that were scored."""
    if not pixels.bands:
        return picture
    bands = [picture[band - 1] for band in pixels.bands]
    return bands[0].bandjoin(bands[1:]).copy(interpretation="srgb" if len(bands) == 3 else "multiband")


def _toned(read: Callable[[Size], pyvips.Image], size: Size) -> pyvips.Image:
    """Return a picture in grey at exactly the given size; `read` returns it at about a size or larger."""
    picture = read(size)
    if picture.format != "uchar":
        return _stretched(read, size)
    plain = picture.interpretation in ("srgb", "b-w") and not picture.get_typeof("icc-profile-data")
    profile = {} if plain else {"export_profile": "srgb"}  # a conversion is slow, even between equal profiles
    return _luma(picture.thumbnail_image(size[0], height=size[1], size="force", no_rotate=True, **profile))


def _luma(picture: pyvips.Image) -> pyvips.Image:
    """Return the luma of 8-bit pixels, laid over white where they are transparent."""
    if picture.hasalpha() and picture.bands in (2, 4):
        picture = picture.flatten(background=WHITE)
    if picture.bands > 3:
        picture = picture.extract_band(0, n=3)
    return picture.copy(interpretation="srgb" if picture.bands == 3 else "b-w").colourspace("b-w")


def _stretched(read: Callable[[Size], pyvips.Image], size: Size) -> pyvips.Image:
    """Return the mean of at most three bands, stretched from black to white; white if all pixels are equal."""

    def mean(wanted: Size) -> pyvips.Image:
        picture = read(wanted)
        resized = picture.resize(wanted[0] / picture.width, vscale=wanted[1] / picture.height)
        return resized.extract_band(0, n=3 if resized.bands > 2 else 1).cast("float").bandmean()

    small = mean(_reduced(size)).copy_memory()
    grey = small if _reduced(size) == size else mean(size)
    sample = small.numpy()
    known = sample[np.isfinite(sample)]
    low, high = (float(end) for end in np.percentile(known, STRETCH)) if known.size else (0.0, 0.0)
    if high == low:
        return grey.new_from_image(WHITE).cast("uchar")
    share = (grey - low) * (WHITE / (high - low))
    return (share == share).ifthenelse(share, 0).cast("uchar")  # noqa: PLR0124 (NaN becomes black)


def _reduced(size: Size) -> Size:
    """Return the same size, or a smaller size of at most LONGEST pixels on the longer side."""
    scale = min(1, LONGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
