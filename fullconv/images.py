"""Images in every form that callers give them, turned into sources that can be sent and scored.

path, str                   a file, read when it is sent or scored; a .npy file or a Zarr array: its pixels, row by row
bytes, open binary file     an encoded file
numpy array, Zarr array     pixels (height, width) or (height, width, channels)
PIL image                   its pixels; with transparency, a palette or single bits, the same image as a PNG file
"""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fullconv.common.text import encodable, printable
from fullconv.errors import ImageError

if TYPE_CHECKING:
    import PIL.Image

DTYPES = ("uint8", "uint16", "int16", "float32")
"""Element types of pixels. For uint8 and uint16, white is 255 or 65535; int16 and float32 are for models that take an
image's own values."""
PIL_ARRAYS, PIL_FILES = ("L", "RGB", "I;16", "F"), ("1", "LA", "P", "RGBA")
"""Modes of PIL images whose pixels are taken as they are; and modes of PIL images that are first encoded as PNG files,
so that their alpha and palette are treated as in any other file."""
EXPECTED = "a path, bytes, an array, a PIL image or an open binary file"


class PixelArray(Protocol):
    """An array that can be sliced into rows: of numpy, mapped from a file or not, or of Zarr. No channel is alpha."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) or (height, width, channels)."""

    @property
    def dtype(self) -> Any:  # noqa: ANN401 (numpy's)
        """One of DTYPES."""

    def __getitem__(self, rows: slice, /) -> Any:  # noqa: ANN401 (whatever numpy takes)
        """Return some rows."""


Image: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | PixelArray | PIL.Image.Image"
"""Every form of an image or a mask; the docstring of this module describes them."""


@dataclass(frozen=True)
class FileSource:
    """A file or a pipe, which is read when it is sent or scored."""

    path: Path

    def __post_init__(self) -> None:
        """Raise ImageError for a name that no file can have."""
        if "\0" in str(self.path):
            raise ImageError(f"{printable(str(self.path))!r}: cannot be read: embedded null byte")

    @property
    def name(self) -> str:
        """The file's name, as text."""
        return encodable(self.path.name)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file; raises ImageError if it cannot be read."""
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise ImageError(f"{self.path}: cannot be read: {error.strerror or error}") from None


@dataclass(frozen=True)
class EncodedSource:
    """An encoded file in memory."""

    data: bytes = field(repr=False)
    name: str = ""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pixels (height, width) or (height, width, channels) of one of DTYPES, in memory or not."""

    pixels: PixelArray = field(repr=False)
    name: str = ""
    """The file's name; empty for an array that is not from a file."""
    label: str = "image"
    """Names the array in errors."""

    def __post_init__(self) -> None:
        """Raise ImageError unless the array is an image."""
        dtype, shape = _dtype_of(self.pixels, self.label), tuple(self.pixels.shape)
        if dtype.name not in DTYPES or len(shape) not in (2, 3):
            raise ImageError(
                f"{self.label}: expected (height, width[, channels]) of {', '.join(DTYPES)}, got {shape} of {dtype}"
            )
        if 0 in shape:
            raise ImageError(f"{self.label}: expected at least one row, column and channel, got {shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = (*self.pixels.shape, 1)[:3]
        return height, width, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return _dtype_of(self.pixels, self.label)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return math.prod(self.pixels.shape) * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        """Number of rows that are best read together: the rows of a chunk, or 1."""
        return int(getattr(self.pixels, "chunks", (1,))[0])

    def read(self, first: int, stop: int) -> NDArray[np.generic]:
        """Return rows [first, stop), as the array has them; raises ImageError if they cannot be read."""
        try:
            rows: NDArray[np.generic] = np.asarray(self.pixels[first:stop])
        except Exception as error:  # Zarr's codecs raise exceptions of many kinds
            raise ImageError(f"{self.label}: rows {first} to {stop - 1} cannot be read: {error}") from None
        return rows


ImageSource = FileSource | EncodedSource | ArraySource


class Region(NamedTuple):
    """Pixels [x, x + width) and [y, y + height) of an image."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class ScoredPixels:
    """An image, and the selection of its pixels that were scored, which a heatmap shows."""

    source: ImageSource
    region: Region | None = None
    """None: the whole image."""
    page: int = 0
    """Page of the file, counted from 1; 0: the first page of full resolution."""
    bands: tuple[int, ...] = ()
    """Counted from 1; empty: all."""


def source_of(
    image: Any,  # noqa: ANN401 (whatever the caller gives)
    label: str = "image",
    *,
    truth_values: bool = False,
) -> ImageSource:
    """Turn an image, as a caller gives it, into a source; `label` names it in errors.

    Files are not read, except for the header of a file of an array. With `truth_values`, arrays of numpy may be
    boolean, in memory and in files, and have the pixels 0 and 1. Raises ImageError for an unknown kind of image.
    """
    if isinstance(image, (str, os.PathLike)):
        return _file_source(Path(image), truth_values=truth_values)
    if isinstance(image, bytes):
        return EncodedSource(image)
    if _is_pil(image):
        return _pil_source(image, label)
    if hasattr(image, "read"):
        return _open_file_source(image, label)
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        return ArraySource(_numbers(image) if truth_values else image, label=label)
    raise ImageError(f"{label}: expected {EXPECTED}, got {type(image).__name__}")


def is_image_folder(path: Path) -> bool:
    """Return whether a folder is an image, a Zarr array, instead of a folder of images. Raises PermissionError."""
    return any((path / name).exists() for name in ("zarr.json", ".zarray"))


def _file_source(path: Path, *, truth_values: bool) -> ImageSource:
    """Return the pixels of a .npy file or of a Zarr array, which are not read yet; or any other file."""
    try:
        if path.suffix.lower() == ".npy":
            pixels: PixelArray = np.lib.format.open_memmap(path, mode="r")
        elif is_image_folder(path):
            pixels = _open_zarr(path)
        else:
            return FileSource(path)
    except ImageError:
        raise
    except Exception as error:  # the parsers of headers raise errors of unrelated classes for damaged files
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
        raise ImageError(
            f"{path}: expected a complete array, got a damaged file: {str(error) or type(error).__name__}; copy the "
            "file again from a complete original"
        ) from None
    return ArraySource(_numbers(pixels) if truth_values else pixels, encodable(path.name), str(path))


def _numbers(pixels: PixelArray) -> PixelArray:
    """Return a boolean array of numpy as 0 and 1; any other array unchanged."""
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.bool_:
        numbers: PixelArray = pixels.view(np.uint8)
        return numbers
    return pixels


def _open_zarr(path: Path) -> PixelArray:
    try:
        import zarr  # noqa: PLC0415 (an extra)
    except ImportError:
        raise ImageError(f"{path}: a Zarr array needs the package zarr; pip install zarr") from None
    array = zarr.open(path, mode="r")
    if not isinstance(array, zarr.Array):
        raise ImageError(f"{path}: expected an array, got a group; name one of the arrays in it")
    pixels: PixelArray = array
    return pixels


def _is_pil(image: object) -> bool:
    """Return whether an object is a PIL image, without importing PIL: if it is not imported, there is no such image.

    While another thread imports PIL, its module has no class yet.
    """
    kind = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return kind is not None and isinstance(image, kind)


def _pil_source(image: "PIL.Image.Image", label: str) -> ImageSource:
    """Return the pixels of a PIL image, rotated by its EXIF orientation; raises ImageError for unsupported modes."""
    from PIL import ImageOps  # noqa: PLC0415 (PIL is imported already)

    name = encodable(Path(str(getattr(image, "filename", ""))).name)
    try:
        turned = ImageOps.exif_transpose(image)
        if turned.mode in PIL_ARRAYS and "transparency" not in turned.info:
            return ArraySource(np.asarray(turned), name, label)
        if turned.mode in (*PIL_ARRAYS, *PIL_FILES):
            buffer = BytesIO()
            turned.save(buffer, "PNG", compress_level=1)
            return EncodedSource(buffer.getvalue(), name)
    except (OSError, SyntaxError) as error:  # PIL reads a file's pixels when they are first needed
        raise ImageError(f"{name or label}: cannot be read: {error}") from None
    raise ImageError(
        f"{label}: expected a PIL image of mode {', '.join((*PIL_ARRAYS, *PIL_FILES))}, got {turned.mode}; convert it "
        'with .convert("RGB")'
    )


def _open_file_source(file: Any, label: str) -> EncodedSource:  # noqa: ANN401 (a file, or something with its method)
    """Read an open binary file from its position to its end."""
    data, name = "" if isinstance(file, TextIOBase) else file.read(), getattr(file, "name", "")
    if not isinstance(data, bytes):
        raise ImageError(
            f"{label}: expected a file that is open in binary mode, got a file that reads {type(data).__name__}"
        )
    return EncodedSource(data, encodable(Path(name).name) if isinstance(name, str) else "")


def _dtype_of(pixels: PixelArray, label: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(pixels.dtype)
    except TypeError:  # tensors of other libraries
        raise ImageError(f"{label}: expected an array of numpy or Zarr, got {type(pixels).__name__}") from None
    return dtype
