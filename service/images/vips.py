"""JPEG, PNG and WebP images, read by libvips.

All other loaders of libvips are blocked for the whole process, except that of TIFF, which reads the backgrounds of
heatmaps and the strips of TIFF files. A damaged file is refused; libvips by itself would fill the damage with grey.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from fullconv.common.libvips import pyvips
from service.errors import ImageError
from service.images.picture import FIRST_PAGE, PageSelection, Picture
from service.images.pixels import WHITE, BandLayout, Colour, SampleArray

COLOURS: dict[int, Colour] = {1: "grey", 2: "grey", 3: "rgb", 4: "rgb"}
"""Colours by the number of bands."""
DTYPES = {"uchar": "uint8", "ushort": "uint16"}


class VipsRows:
    """Reads the samples of an image of libvips, which keeps some rows in memory; a `SampleReader`."""

    block_rows = 16

    def __init__(self, name: str, image: pyvips.Image) -> None:
        self._name, self._image = name, image
        self._width, self._bands = image.width, image.bands
        self._dtype = np.uint16 if image.format == "ushort" else np.uint8

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, cols, bands); raises ImageError if they cannot be decoded."""
        with _as_image_error(self._name):
            region = pyvips.Region.new(self._image)
            try:
                data = region.fetch(0, first, self._width, stop - first)
            finally:
                # The region's pixels are in a cache of this thread. An error may keep the region alive until another
                # thread frees it, so it is released here.
                pyvips.ffi.release(region.pointer)
        return np.frombuffer(data, self._dtype).reshape(stop - first, self._width, self._bands)


def open_vips(name: str, load: Callable[..., pyvips.Image], selection: PageSelection = FIRST_PAGE) -> Picture:
    """Open an image that `load` loads with options of libvips; raises ImageError.

    Pixels are decoded from top to bottom as they are read, unless EXIF rotates the image: then it is decoded whole.
    """
    with _as_image_error(name):
        image = load(access="sequential", fail_on="error")
        page, notes = _page(name, image, selection)
        if page:
            load = partial(load, page=page)
            image = load(access="sequential", fail_on="error")
        is_rotated = bool(image.get_typeof("orientation")) and image.get("orientation") > 1
        access = {"access": "random" if is_rotated else "sequential", "fail_on": "error"}

        def images() -> Iterator[pyvips.Image]:
            if not is_rotated:
                yield image  # no pixel of it was read
            while True:
                yield load(**access).autorot() if is_rotated else load(**access)

        next_image = partial(next, images())
        header = load(**access).autorot() if is_rotated else image
        layout = _layout(header)

    def open_samples() -> VipsRows:
        with _as_image_error(name):
            return VipsRows(name, next_image())

    return Picture(
        name, header.height, header.width, layout, open_samples, selection.bands, decoded_whole=True, notes=notes
    )


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
def _as_image_error(name: str) -> Iterator[None]:
    """Raise errors of libvips as ImageError.

    The text of the error is not used: libvips collects the messages of all threads, and so of all requests, in one
    buffer.
    """
    try:
        yield
    except pyvips.Error:
        raise ImageError(
            f"{name}: expected a complete JPEG, PNG, WebP or TIFF file, got a damaged, truncated or other file"
        ) from None
