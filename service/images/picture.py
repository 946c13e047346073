"""An image whose size is known and whose pixels are not decoded yet.

JPEG, PNG, WebP and TIFF through libvips; every other loader, and those that libvips calls untrusted, are blocked.
A file that is damaged anywhere is refused, never filled up with grey.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from protos import model_pb2, scoring_pb2
from service.errors import ImageError, LimitError
from service.images.pixels import convert

FORMATS = ("Jpeg", "Png", "Webp", "Tiff")
RAW_FORMATS = {"uint8": "uchar", "uint16": "ushort"}
MAX_SIDE = 10_000_000  # libvips's own bound

pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _format in FORMATS:
    pyvips.operation_block_set(f"VipsForeignLoad{_format}", False)
pyvips.cache_set_max(0)


@dataclass(frozen=True)
class Picture:
    """An image of known size; `width` and `height` are pixels after EXIF rotation."""

    name: str
    image: pyvips.Image

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.image.width)

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.image.height)

    def check(self, *, max_pixels: int, window: model_pb2.Size, wanted: model_pb2.Input) -> None:
        """Refuse, before a pixel is decoded, what cannot be scored: too large, too small, or of the wrong bands."""
        if self.width * self.height > max_pixels:
            raise LimitError(
                f"{self.name}: {self.width}×{self.height} is {self.width * self.height / 1e6:.0f} megapixels, "
                f"expected at most {max_pixels / 1e6:.0f}: scale or cut the image"
            )
        if self.width < window.width or self.height < window.height:
            raise ImageError(
                f"{self.name}: expected at least the model's window of {window.width}×{window.height} pixels, "
                f"got {self.width}×{self.height}"
            )
        try:
            convert(self.image, channels=wanted.channels, dtype=wanted.dtype)
        except ValueError as error:
            raise ImageError(f"{self.name}: {error}") from None
        except pyvips.Error:
            raise _undecodable(self.name) from None

    def pixels(
        self, wanted: model_pb2.Input, cancelled: Callable[[], bool] = lambda: False
    ) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Decode to (height, width, channels) in the model's element type, values 0 to 255.

        `cancelled` is asked now and then; decoding stops with ImageError when it says so.
        """
        try:
            image = convert(self.image, channels=wanted.channels, dtype=wanted.dtype)
            image.set_progress(True)
            image.signal_connect("eval", lambda image, _: image.set_kill(cancelled()))
            array: NDArray[np.uint8] | NDArray[np.float32] = image.numpy()
        except pyvips.Error:
            raise _undecodable(self.name) from None
        return array.reshape(self.height, self.width, wanted.channels)


def open_file(path: Path) -> Picture:
    """Open an image file, or a pipe; named by its file name."""
    try:
        with path.open("rb") as file:  # libvips would take [...] at the end of a name for its own options
            source = pyvips.Source.new_from_descriptor(file.fileno())
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    name = readable(path.name)
    return Picture(name, _open(name, lambda access: pyvips.Image.new_from_source(source, "", **access)))


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8, which a name may hold, become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def open_bytes(data: bytes, *, name: str) -> Picture:
    """Open an encoded image that is already in memory."""
    return Picture(name, _open(name, lambda access: pyvips.Image.new_from_buffer(data, "", **access)))


def open_raw(raw: scoring_pb2.RawImage, *, name: str) -> Picture:
    """Take uncompressed pixels, after checking that they are as many as they say."""
    if raw.dtype not in RAW_FORMATS:
        raise ImageError(f"{name}: image.raw.dtype: expected {' or '.join(RAW_FORMATS)}, got {raw.dtype!r}")
    for field, value in (("height", raw.height), ("width", raw.width), ("channels", raw.channels)):
        if not 0 < value <= MAX_SIDE:
            raise ImageError(f"{name}: image.raw.{field}: expected 1 to {MAX_SIDE}, got {value}")
    expected = raw.height * raw.width * raw.channels * np.dtype(raw.dtype).itemsize
    if len(raw.data) != expected:
        raise ImageError(f"{name}: image.raw.data: expected {expected} bytes, got {len(raw.data)}")
    image = pyvips.Image.new_from_memory(raw.data, raw.width, raw.height, raw.channels, RAW_FORMATS[raw.dtype])
    deep = raw.dtype == "uint16"
    meanings = {1: "grey16" if deep else "b-w", 3: "rgb16" if deep else "srgb", 4: "rgb16" if deep else "srgb"}
    return Picture(name, image.copy(interpretation=meanings.get(raw.channels, "multiband")))


def open_image(image: scoring_pb2.Image) -> Picture:
    """Open the image of a request."""
    name = image.name or "image"
    match image.WhichOneof("pixels"):
        case "encoded":
            return open_bytes(image.encoded, name=name)
        case "raw":
            return open_raw(image.raw, name=name)
        case _:
            raise ImageError(f"{name}: image: expected encoded or raw pixels, got neither")


def _open(name: str, load: Callable[[dict[str, str]], pyvips.Image]) -> pyvips.Image:
    """Read the header. Pixels stream from top to bottom, unless EXIF turns the image."""
    try:
        image = load({"access": "sequential", "fail_on": "error"})
        if image.get_typeof("orientation") and image.get("orientation") > 1:
            image = load({"access": "random", "fail_on": "error"}).autorot()
    except pyvips.Error:
        raise _undecodable(name) from None
    return image


def _undecodable(name: str) -> ImageError:
    """Say nothing of what libvips says: its messages are one buffer for all threads, other requests' included."""
    return ImageError(f"{name}: not a whole JPEG, PNG, WebP or TIFF image: damaged, cut short, or something else")
