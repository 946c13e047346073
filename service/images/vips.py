"""JPEG, PNG and WebP, through libvips.

All loaders but these, and TIFF's for pictures of a heatmap's background, are blocked for the whole process.

A file that is damaged anywhere is refused, never filled up with grey.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyvips

from service.errors import ImageError
from service.images.picture import FIRST_PAGE, PageSelection, Picture
from service.images.pixels import WHITE, Colour, SampleArray, Samples

FORMATS = ("Jpeg", "Png", "Webp", "Tiff")
COLOURS: dict[int, Colour] = {1: "grey", 2: "grey", 3: "rgb", 4: "rgb"}
DTYPES = {"uchar": "uint8", "ushort": "uint16"}

pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _format in FORMATS:
    pyvips.operation_block_set(f"VipsForeignLoad{_format}", False)
pyvips.cache_set_max(0)


class VipsRows:
    """The samples of an image that libvips reads, of which it keeps some rows."""

    block_rows = 16

    def __init__(self, name: str, image: pyvips.Image) -> None:
        self._name, self._image = name, image
        self._width, self._bands = image.width, image.bands
        self._dtype = np.uint16 if image.format == "ushort" else np.uint8

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) as (rows, width, bands); raises ImageError if they cannot be decoded."""
        with _said_as(self._name):
            region = pyvips.Region.new(self._image)
            try:
                data = region.fetch(0, first, self._width, stop - first)
            finally:  # an error that holds it may end in another thread, and its pixels are in a cache of this one
                pyvips.ffi.release(region.pointer)
        return np.frombuffer(data, self._dtype).reshape(stop - first, self._width, self._bands)


def open_vips(name: str, load: Callable[..., pyvips.Image], selection: PageSelection = FIRST_PAGE) -> Picture:
    """Open an image as libvips loads it; pixels stream from top to bottom, unless EXIF turns the image."""
    with _said_as(name):
        image = load(access="sequential", fail_on="error")
        page, notes = _page(name, image, selection)
        if page:
            load = partial(load, page=page)
            image = load(access="sequential", fail_on="error")
        turned = bool(image.get_typeof("orientation")) and image.get("orientation") > 1
        access = {"access": "random" if turned else "sequential", "fail_on": "error"}

        def images() -> Iterator[pyvips.Image]:
            if not turned:
                yield image  # no pixel of it was read
            while True:
                yield load(**access).autorot() if turned else load(**access)

        again = partial(next, images())
        header = load(**access).autorot() if turned else image
        samples = _samples(header)

    def begin() -> VipsRows:
        with _said_as(name):
            return VipsRows(name, again())

    return Picture(name, header.height, header.width, samples, begin, selection.bands, whole=True, notes=notes)


def _samples(image: pyvips.Image) -> Samples:
    """The second band of two and the fourth of four are alpha in PNG and WebP, and ink in JPEG."""
    bands, dtype = image.bands, DTYPES[image.format]
    if image.interpretation == "cmyk":
        profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else b""
        return Samples(bands, dtype, "cmyk", white=WHITE[dtype], profile=bytes(profile))
    return Samples(bands, dtype, COLOURS[bands], alpha=bands - 1 if bands in (2, 4) else None, white=WHITE[dtype])


def _page(name: str, image: pyvips.Image, selection: PageSelection) -> tuple[int, tuple[str, ...]]:
    """Which page is loaded, counted from 0, and what there is to say of the others."""
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if selection.page > pages:
        raise ImageError(f"{name}: page: expected 1 to {pages}, got {selection.page}")
    if selection.page or pages == 1:
        return max(0, selection.page - 1), ()
    return 0, (f"page 1 of {pages} was scored; page (in the command --page N) chooses another",)


@contextmanager
def _said_as(name: str) -> Iterator[None]:
    """Say nothing of what libvips says: its messages are one buffer for all threads, other requests' included."""
    try:
        yield
    except pyvips.Error:
        raise ImageError(
            f"{name}: not a whole JPEG, PNG, WebP or TIFF image: damaged, cut short, or something else"
        ) from None
