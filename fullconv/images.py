"""Images as messages: files, encoded bytes and arrays."""

import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import ImageError
from fullconv.protos import scoring_pb2

MESSAGE_BYTES = 1 << 31
"""Of protobuf, whatever the server's limit is."""


class Pixels(Protocol):
    """Anything with a shape that can be sliced into rows: a numpy array, mapped from a file or not, or a Zarr array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) or (height, width, channels)."""

    @property
    def dtype(self) -> Any:  # noqa: ANN401 (numpy's)
        """One of DTYPES."""

    def __getitem__(self, rows: slice, /) -> Any:  # noqa: ANN401 (whatever numpy takes)
        """Some rows."""


Image = str | Path | bytes | NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16] | NDArray[np.float32]
"""A path, an encoded file, or pixels (height, width) or (height, width, channels); of uint8 or uint16, white is 255 or
65535, of int16 or float32, they are for models that take an image's own values. No channel is alpha."""
DTYPES = ("uint8", "uint16", "int16", "float32")


def message_of(image: Image, name: str = "image") -> scoring_pb2.Image:
    """An image as a message; raises ImageError, by a name, if its file cannot be read, or an array is no image."""
    if isinstance(image, bytes):
        return scoring_pb2.Image(encoded=image)
    if isinstance(image, np.ndarray):
        return scoring_pb2.Image(raw=raw_message(image, name))
    if not isinstance(image, (str, os.PathLike)):
        raise ImageError(
            f"{name}: expected a path, an encoded file's bytes or a numpy array, got {type(image).__name__}"
        )
    path = Path(image)
    try:
        pixels = open_array(path)
        if pixels is not None:
            return scoring_pb2.Image(name=readable(path.name), raw=raw_message(pixels, str(path)))
        return scoring_pb2.Image(name=readable(path.name), encoded=path.read_bytes())
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a zero byte in the name
        raise ImageError(f"{readable(str(path))!r}: cannot be read: {error}") from None


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8, which a name may hold, become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def raw_message(pixels: Pixels, name: str) -> scoring_pb2.RawImage:
    """An array as a message; raises ImageError if it is no image."""
    check_pixels(pixels, name)
    dtype = np.dtype(pixels.dtype)
    size, _ = extent(pixels)
    if size >= MESSAGE_BYTES:  # before it is read
        raise ImageError(
            f"{name}: expected less than {MESSAGE_BYTES} bytes, which is the most that one message holds, got "
            f"{size}: use score_large"
        )
    height, width, channels = (*pixels.shape, 1)[:3]
    little = np.ascontiguousarray(read_rows(pixels, 0, height, name), dtype.newbyteorder("<"))
    return scoring_pb2.RawImage(height=height, width=width, channels=channels, dtype=dtype.name, data=little.tobytes())


def open_array(path: Path) -> Pixels | None:
    """The pixels of a .npy file or a Zarr array, which are not read yet; None for any other file.

    Raises ImageError if they cannot be opened, or are no image.
    """
    try:
        if path.suffix == ".npy":
            pixels: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        elif any((path / name).exists() for name in ("zarr.json", ".zarray")):
            pixels = _zarr(path)
        else:
            return None
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{path}: cannot be read as an array: {error}") from None
    check_pixels(pixels, str(path))
    return pixels


def _zarr(path: Path) -> Pixels:
    try:
        import zarr  # noqa: PLC0415 (an extra)
    except ImportError:
        raise ImageError(f"{path}: a Zarr array needs the package zarr: pip install zarr") from None
    array = zarr.open(path, mode="r")
    if not isinstance(array, zarr.Array):
        raise ImageError(f"{path}: expected an array, got a group: name one of the arrays in it")
    pixels: Pixels = array
    return pixels


def chunk_rows(pixels: Pixels) -> int:
    """Rows of an array that are best read together: a chunk's, if it has chunks."""
    return int(getattr(pixels, "chunks", (1,))[0])


def read_rows(pixels: Pixels, first: int, stop: int, name: str) -> NDArray[np.generic]:
    """Rows [first, stop) of an array; raises ImageError if they cannot be read."""
    try:
        rows: NDArray[np.generic] = np.asarray(pixels[first:stop])
    except Exception as error:  # Zarr's codecs raise kinds of their own
        raise ImageError(f"{name}: rows {first} to {stop - 1} cannot be read: {error}") from None
    return rows


def check_pixels(pixels: Pixels, name: str) -> None:
    """Raise ImageError unless an array is an image."""
    if not (hasattr(pixels, "shape") and hasattr(pixels, "dtype")):
        raise ImageError(f"{name}: expected a path or an array, got {type(pixels).__name__}")
    dtype = np.dtype(pixels.dtype)
    if dtype.name not in DTYPES or len(pixels.shape) not in (2, 3):
        raise ImageError(
            f"{name}: expected (height, width[, channels]) of {', '.join(DTYPES)}, got {pixels.shape} of {dtype}"
        )
    if 0 in pixels.shape:
        raise ImageError(f"{name}: expected at least one row, column and channel, got {pixels.shape}")


def extent(pixels: Pixels) -> tuple[int, float]:
    """Bytes and megapixels of an array."""
    size = math.prod(pixels.shape) * np.dtype(pixels.dtype).itemsize
    return size, math.prod(pixels.shape[:2]) / 1e6


def megapixels_of(path: Path) -> float:
    """Megapixels, as a file's header says; 0 if it says nothing. Raises OSError."""
    import pyvips  # noqa: PLC0415 (loads libvips, which only the command's choice between calls needs)

    with path.open("rb") as file:
        try:
            image = pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "")
        except pyvips.Error:
            return 0.0
    return float(image.width * image.height / 1e6)
