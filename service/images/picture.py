"""An image whose size is known and whose pixels are not decoded yet.

JPEG, PNG, WebP and TIFF through libvips; every other loader, and those that libvips calls untrusted, are blocked.
A file that is damaged anywhere is refused, never filled up with grey.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np
import pyvips
from numpy.typing import NDArray

from protos import model_pb2, scoring_pb2
from service.errors import ImageError, LimitError
from service.images.pixels import convert
from service.images.rows import Pixels, Rows

FORMATS = ("Jpeg", "Png", "Webp", "Tiff")
RAW_FORMATS = {"uint8": "uchar", "uint16": "ushort"}
PART_BYTES = 256 << 20
"""Pixels of one row of a TIFF's tiles, or of one strip: more of them is a file that is decoded whole."""
MAX_SIDE = 10_000_000  # libvips's own bound

pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _format in FORMATS:
    pyvips.operation_block_set(f"VipsForeignLoad{_format}", False)
pyvips.cache_set_max(0)


class Picture(Protocol):
    """An image of known size; `width` and `height` are pixels after EXIF rotation."""

    @property
    def name(self) -> str:
        """Named in the answer and in errors."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def whole(self) -> bool:
        """Whether the limit for files that may have to be decoded all at once binds it: all but TIFF and arrays."""

    def check_bands(self, wanted: model_pb2.Input) -> None:
        """Raise ImageError if the bands cannot become what a model takes."""

    def valid(self) -> Rows | None:
        """Where there are data, one channel, from the top: not 0; None: everywhere."""

    def rows(self, wanted: model_pb2.Input) -> Rows:
        """The pixels as a model takes them, from the top; may be asked for again. Raises ImageError while reading."""


def check_size(picture: Picture, *, pixels: int, whole_pixels: int, window: model_pb2.Size) -> None:
    """Refuse, before a pixel is decoded, an image that is too large or too small to be scored."""
    size = picture.width * picture.height
    megapixels = size / 1e6
    whole = min(pixels, whole_pixels) < size <= pixels and picture.whole
    allowed = min(pixels, whole_pixels) if whole else pixels
    if size > allowed:
        way_out = "scale or cut the image"
        if whole:
            way_out = "scale or cut it, or save it as a tiled TIFF, which may be larger"
        elif pixels <= whole_pixels:
            way_out += ", or send it to ScoreLarge in parts"
        raise LimitError(
            f"{picture.name}: {picture.width}×{picture.height} is {megapixels:.0f} megapixels, "
            f"expected at most {allowed / 1e6:.0f}: {way_out}"
        )
    if picture.width < window.width or picture.height < window.height:
        raise ImageError(
            f"{picture.name}: expected at least the model's window of {window.width}×{window.height} pixels, "
            f"got {picture.width}×{picture.height}"
        )


@dataclass(frozen=True)
class VipsPicture:
    """An image that libvips reads: its header, and how to open it once more."""

    name: str
    image: pyvips.Image
    load: Callable[[], pyvips.Image]
    is_whole: Callable[[], bool] = lambda: False
    _taken: dict[tuple[int, str], pyvips.Image] = field(init=False, default_factory=dict, compare=False, repr=False)
    """`image` as models take it, by their channels and type: each question to libvips takes a while."""

    @property
    def whole(self) -> bool:
        """Whether the limit for files that may have to be decoded all at once binds it."""
        return self.is_whole()

    @cached_property
    def width(self) -> int:
        """Pixels."""
        return int(self.image.width)

    @cached_property
    def height(self) -> int:
        """Pixels."""
        return int(self.image.height)

    def check_bands(self, wanted: model_pb2.Input) -> None:
        """Raise ImageError if the bands cannot become what a model takes."""
        self._as_taken(wanted)

    def valid(self) -> None:
        """There are data everywhere."""

    def rows(self, wanted: model_pb2.Input) -> Rows:
        """The pixels as a model takes them, from the top."""
        with _said_as(self.name):
            image = self.load()
        return VipsRows(self.name, self._as_taken(wanted) if image is self.image else self._converted(image, wanted))

    def truth(self) -> "VipsRows":
        """255 where any band but alpha is not 0, and alpha is not either; else 0. One channel, from the top."""
        with _said_as(self.name):
            image = self.load()
            colours = image.extract_band(0, n=image.bands - 1) if image.hasalpha() else image
            there = (colours != 0).bandor()
            return VipsRows(self.name, there & (image[image.bands - 1] != 0) if image.hasalpha() else there)

    def _as_taken(self, wanted: model_pb2.Input) -> pyvips.Image:
        key = (wanted.channels, wanted.dtype)
        if key not in self._taken:
            self._taken[key] = self._converted(self.image, wanted)
        return self._taken[key]

    def _converted(self, image: pyvips.Image, wanted: model_pb2.Input) -> pyvips.Image:
        try:
            with _said_as(self.name):
                return convert(image, channels=wanted.channels, dtype=wanted.dtype)
        except ValueError as error:
            raise ImageError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class RawPicture:
    """Pixels (height, width, channels) in memory, which are taken as they are where a model takes such."""

    name: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    whole: bool = False

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[1])

    def check_bands(self, wanted: model_pb2.Input) -> None:
        """Raise ImageError if the bands cannot become what a model takes."""
        if not self._as_wanted(wanted):
            self._image.check_bands(wanted)

    def valid(self) -> None:
        """There are data everywhere."""

    def rows(self, wanted: model_pb2.Input) -> Rows:
        """The pixels as a model takes them, from the top."""
        return RowsInMemory(cast("Pixels", self.pixels)) if self._as_wanted(wanted) else self._image.rows(wanted)

    def truth(self) -> "VipsRows":
        """255 where any band but alpha is not 0, and alpha is not either; else 0. One channel, from the top."""
        return self._image.truth()

    def _as_wanted(self, wanted: model_pb2.Input) -> bool:
        return self.pixels.dtype == wanted.dtype and self.pixels.shape[2] == wanted.channels

    @cached_property
    def _image(self) -> VipsPicture:
        image = in_memory(self.pixels.data, self.pixels.shape, self.pixels.dtype.name)
        return VipsPicture(self.name, image, lambda: image)


@dataclass(frozen=True)
class RowsInMemory:
    """Pixels that are there already."""

    pixels: Pixels
    together: int = 1

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop)."""
        return self.pixels[first:stop]


class VipsRows:
    """The pixels of an image that libvips reads, and of whose tiles it keeps some rows."""

    together = 16

    def __init__(self, name: str, image: pyvips.Image) -> None:
        self._name, self._image = name, image
        self._width, self._bands = image.width, image.bands
        self._dtype = np.float32 if image.format == "float" else np.uint8

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop) as (rows, width, channels); raises ImageError if they cannot be decoded."""
        with _said_as(self._name):
            region = pyvips.Region.new(self._image)
            try:
                data = region.fetch(0, first, self._width, stop - first)
            finally:  # an error that holds it may end in another thread, and its pixels are in a cache of this one
                pyvips.ffi.release(region.pointer)
        return cast("Pixels", np.frombuffer(data, self._dtype).reshape(stop - first, self._width, self._bands))


def open_file(path: Path, *, name: str = "") -> VipsPicture:
    """Open an image file, or a pipe, which is read to its end at once; named by its file name unless told."""
    name = name or readable(path.name)
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return open_bytes(file.read(), name=name)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None

    def load(**access: str) -> pyvips.Image:
        with path.open("rb") as file:  # libvips would take [...] at the end of a name for its own options
            return pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "", **access)

    return _open(name, load, lambda: path.open("rb"))


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8, which a name may hold, become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def open_bytes(data: bytes, *, name: str) -> VipsPicture:
    """Open an encoded image that is already in memory."""
    return _open(name, lambda **access: pyvips.Image.new_from_buffer(data, "", **access), lambda: BytesIO(data))


def open_raw(raw: scoring_pb2.RawImage, *, name: str) -> RawPicture:
    """Take uncompressed pixels, after checking that they are as many as they say."""
    if raw.dtype not in RAW_FORMATS:
        raise ImageError(f"{name}: image.raw.dtype: expected {' or '.join(RAW_FORMATS)}, got {raw.dtype!r}")
    for side, value in (("height", raw.height), ("width", raw.width), ("channels", raw.channels)):
        if not 0 < value <= MAX_SIDE:
            raise ImageError(f"{name}: image.raw.{side}: expected 1 to {MAX_SIDE}, got {value}")
    expected, data = raw.height * raw.width * raw.channels * np.dtype(raw.dtype).itemsize, raw.data
    if len(data) != expected:
        raise ImageError(f"{name}: image.raw.data: expected {expected} bytes, got {len(data)}")
    return RawPicture(name, np.frombuffer(data, raw.dtype).reshape(raw.height, raw.width, raw.channels))


def in_memory(data: bytes | memoryview, shape: tuple[int, ...], dtype: str) -> pyvips.Image:
    """Pixels (height, width, channels) of "uint8" or "uint16" as an image; nothing is copied."""
    height, width, channels = shape
    deep = dtype == "uint16"
    meanings = {1: "grey16" if deep else "b-w", 3: "rgb16" if deep else "srgb", 4: "rgb16" if deep else "srgb"}
    image = pyvips.Image.new_from_memory(data, width, height, channels, RAW_FORMATS[dtype])
    return image.copy(interpretation=meanings.get(channels, "multiband"))


def open_image(image: scoring_pb2.Image) -> VipsPicture | RawPicture:
    """Open the image of a request."""
    name = image.name or "image"
    match image.WhichOneof("pixels"):
        case "encoded":
            return open_bytes(image.encoded, name=name)
        case "raw":
            return open_raw(image.raw, name=name)
        case "path":
            raise ImageError(f"{name}: path: expected encoded or raw pixels, got a path")
        case _:
            raise ImageError(f"{name}: image: expected encoded or raw pixels, or a path, got none")


def _open(name: str, load: Callable[..., pyvips.Image], read: Callable[[], BinaryIO]) -> VipsPicture:
    """Open an image as libvips loads it; `read` gives the file's bytes.

    Pixels stream from top to bottom, unless EXIF turns the image.

    Of a TIFF file's tiles, libvips leaves those that it cannot read black, and only warns; a JPEG's warnings are for
    what many cameras write.
    """
    with _said_as(name):
        image = load(access="sequential", fail_on="error")
        tiff = image.get("vips-loader").startswith("tiff")
        turned = bool(image.get_typeof("orientation")) and image.get("orientation") > 1
        access = {"access": "random" if turned else "sequential", "fail_on": "warning" if tiff else "error"}

        def images() -> Iterator[pyvips.Image]:
            if not turned and not tiff:
                yield image  # no pixel of it was read
            while True:
                yield load(**access).autorot() if turned else load(**access)

        again = partial(next, images())
        header = load(**access).autorot() if turned else image
        return VipsPicture(name, header, again, lambda: turned or not tiff or not _in_small_parts(image, read))


def _in_small_parts(image: pyvips.Image, read: Callable[[], BinaryIO]) -> bool:
    """Whether a TIFF's tiles or strips are so small that few of them are in memory at once."""
    import tifffile  # noqa: PLC0415 (for the few files over the limit)

    try:
        with read() as file, tifffile.TiffFile(file) as tiff:
            rows, cols = tiff.pages.first.chunks[:2]
    except Exception:  # whatever a damaged directory leads to
        return False
    across = -(-image.width // cols) if cols < image.width else 1
    return bool(rows * cols * across * image.bands <= PART_BYTES)


@contextmanager
def _said_as(name: str) -> Iterator[None]:
    """Say nothing of what libvips says: its messages are one buffer for all threads, other requests' included."""
    try:
        yield
    except pyvips.Error:
        raise ImageError(
            f"{name}: not a whole JPEG, PNG, WebP or TIFF image: damaged, cut short, or something else"
        ) from None
