"""JPEG, PNG and WebP images, read by libvips.

All other loaders of libvips are blocked for the whole process, except that of TIFF, which reads the backgrounds of
heatmaps and the strips of TIFF files. A truncated file is refused, and so is damage that the decoder detects; libvips
by itself would fill it with grey. Some damage within the compressed data of JPEG and WebP cannot be detected.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from fullconv.common.libvips import pyvips
from service.errors import ImageError
from service.images.decoding import STEP_PIXELS, DecodingCost, Pause
from service.images.orientation import TURN_SECONDS, OrientedRows
from service.images.picture import FIRST_PAGE, PageSelection, Picture, SampleReader
from service.images.pixels import WHITE, BandLayout, Colour, SampleArray
from service.shortage import check_resources

COLOURS: dict[int, Colour] = {1: "grey", 2: "grey", 3: "rgb", 4: "rgb"}
"""Colours by the number of bands."""
DTYPES = {"uchar": "uint8", "ushort": "uint16"}


MakeError = Callable[[], ImageError]
"""Makes the error for a file that libvips cannot decode."""
RGB = 3
KEPT_ROWS = 1700
"""Rows that libvips keeps while it decodes from top to bottom."""


class VipsRows:
    """Reads the samples of an image of libvips, which keeps some rows in memory; a `SampleReader`."""

    block_rows = 16

    def __init__(self, image: pyvips.Image, pause: Pause, error: MakeError) -> None:
        self._image, self._pause, self._error = image, pause, error
        self._width, self._bands = image.width, image.bands
        self._dtype = np.uint16 if image.format == "ushort" else np.uint8
        self._next = 0

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, cols, bands); raises ImageError if they cannot be decoded."""
        self._pause()
        step = max(1, STEP_PIXELS // self._width)
        for row in range(self._next + step, first, step):  # libvips would decode all skipped rows in one call
            self._fetch(row, row + 1)
            self._pause()
        self._next = stop
        return np.frombuffer(self._fetch(first, stop), self._dtype).reshape(stop - first, self._width, self._bands)

    def _fetch(self, first: int, stop: int) -> memoryview:
        with _raising(self._error):
            region = pyvips.Region.new(self._image)
            try:
                samples: memoryview = region.fetch(0, first, self._width, stop - first)
                return samples
            finally:
                # The region's pixels are in a cache of this thread. An error may keep the region alive until another
                # thread frees it, so it is released here.
                pyvips.ffi.release(region.pointer)


def open_vips(
    name: str,
    load: Callable[..., pyvips.Image],
    selection: PageSelection = FIRST_PAGE,
    *,
    error: MakeError,
    stored_bytes: int = 0,
    scans: int = 1,
) -> Picture:
    """Open an image that `load` loads with options of libvips; raises ImageError, which `error` makes.

    Pixels are decoded from top to bottom as they are read, unless EXIF rotates the image: then they are decoded and
    kept at the first call. `stored_bytes` are the bytes of the file, and `scans` the scans of a JPEG file.
    """
    with _raising(error):
        load = partial(load, access="sequential")
        image = load()
        page, notes = _page(name, image, selection)
        if page:
            load = partial(load, page=page)
            image = load()
        layout = _layout(image)

    def images() -> Iterator[pyvips.Image]:
        yield image  # no pixel of it was read
        while True:
            yield load()

    next_image = partial(next, images())
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1

    def open_samples(pause: Pause) -> SampleReader:
        with _raising(error):
            rows = VipsRows(next_image(), pause, error)
        return OrientedRows(rows, image.height, orientation, pause) if orientation > 1 else rows

    height, width = (image.width, image.height) if orientation > 4 else (image.height, image.width)
    cost = decoding_cost(image, stored_bytes, scans, is_turned=orientation > 1)
    return Picture(
        name, height, width, layout, open_samples, selection.bands, decoded_whole=True, notes=notes, cost=cost
    )


def decoding_cost(image: pyvips.Image, stored_bytes: int, scans: int, *, is_turned: bool) -> DecodingCost:
    """Return what decoding an image of libvips costs; see `open_vips`."""
    pixels = image.width * image.height
    row_bytes = image.width * image.bands * (2 if image.format == "ushort" else 1)
    sample_bytes = row_bytes * image.height
    held = min(image.height, KEPT_ROWS) * row_bytes + sample_bytes * is_turned
    loader = str(image.get("vips-loader"))
    if loader.startswith("webp"):
        seconds = pixels * 30e-9 + stored_bytes * 20e-9
        return DecodingCost("WebP", held + 8 * pixels + stored_bytes, seconds, seconds)
    if loader.startswith("png"):
        seconds = sample_bytes * 3e-9 + stored_bytes * 5e-9
        if _is_set(image, "interlaced"):
            return DecodingCost("interlaced PNG", held + sample_bytes + stored_bytes, seconds * 1.7, seconds * 1.7)
        return DecodingCost("PNG", held + stored_bytes, seconds)
    turning = pixels * TURN_SECONDS * is_turned
    seconds = sample_bytes * 1.5e-9 + stored_bytes * 8e-9 + turning
    if not _is_set(image, "jpeg-multiscan"):
        return DecodingCost("baseline JPEG", held, seconds)
    is_subsampled = image.bands == RGB and image.get("jpeg-chroma-subsample") == "4:2:0"
    coefficients = pixels * (1.5 if is_subsampled else image.bands)
    whole = coefficients * (1.5e-9 + scans * 0.07e-9 / image.bands) + stored_bytes * 15e-9
    return DecodingCost("progressive JPEG", held + int(2 * coefficients), seconds + whole, whole)


def _is_set(image: pyvips.Image, field: str) -> bool:
    return bool(image.get_typeof(field)) and bool(image.get(field))


def _layout(image: pyvips.Image) -> BandLayout:
    """Return the layout of the bands: the second of two and the fourth of four are alpha in PNG and WebP."""
    bands, dtype = image.bands, DTYPES[image.format]
    if image.interpretation == "cmyk":  # JPEG, whose four bands are inks
        profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else b""
        return BandLayout(bands, dtype, "cmyk", white=WHITE[dtype], profile=bytes(profile))
    return BandLayout(bands, dtype, COLOURS[bands], alpha=bands - 1 if bands in (2, 4) else None, white=WHITE[dtype])


def _page(name: str, image: pyvips.Image, selection: PageSelection) -> tuple[int, tuple[str, ...]]:
    """Return the index of the page to load, counted from 0, and the notes for the caller; raises ImageError."""
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if selection.page > pages:
        raise ImageError(f"{name}: page: expected 1 to {pages}, got {selection.page}")
    if selection.page or pages == 1:
        return max(0, selection.page - 1), ()
    return 0, (f"page 1 of {pages} was scored; page (in the command --page N) chooses another",)


@contextmanager
def _raising(error: MakeError) -> Iterator[None]:
    """Raise errors of libvips as another error, without their text: libvips mixes the messages of all threads."""
    try:
        yield
    except pyvips.Error:
        check_resources()
        raise error() from None
