"""Encoded images, as files or in memory: JPEG, PNG, WebP and TIFF, told apart by their first bytes."""

import os
import stat
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pyvips

from service.errors import ImageError
from service.images.picture import FIRST_PAGE, PageSelection, Picture
from service.images.vips import open_vips

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHERS = {
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"8BPS": "a Photoshop document",
    b"%PDF": "a PDF document",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an array of numpy",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"FUJIFILM": "a camera's raw file",
}
"""First bytes of kinds that are not read, and what they are."""
BRANDS = {b"heic", b"heix", b"mif1", b"msf1", b"avif"}
HEADER = 16
"""Bytes that tell the kinds apart."""


def open_file(path: Path, selection: PageSelection = FIRST_PAGE, *, name: str = "") -> Picture:
    """Open an image file, or a pipe, which is read to its end at once; named by its file name unless `name` is given.

    Raises ImageError.
    """
    name = name or readable(path.name)
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return open_bytes(file.read(), selection, name=name)
            header = file.read(HEADER)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None

    def load(**options: str) -> pyvips.Image:
        with path.open("rb") as file:  # libvips would take [...] at the end of a name for its own options
            return pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "", **options)

    return _opened(name, header, load, lambda: path.open("rb"), selection)


def open_bytes(data: bytes, selection: PageSelection = FIRST_PAGE, *, name: str) -> Picture:
    """Open an encoded image that is already in memory; raises ImageError."""

    def load(**options: str) -> pyvips.Image:
        return pyvips.Image.new_from_buffer(data, "", **options)

    return _opened(name, data[:HEADER], load, lambda: BytesIO(data), selection)


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8, which a name may hold, become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _opened(
    name: str, header: bytes, load: Callable[..., pyvips.Image], read: Callable[[], BinaryIO], selection: PageSelection
) -> Picture:
    if header.startswith(TIFF):
        from service.images.tiff import open_tiff  # noqa: PLC0415 (loads its decoders, which other files do not need)

        return open_tiff(name, read, selection)
    kind = next((kind for start, kind in OTHERS.items() if header.startswith(start)), "")
    if header[4:8] == b"ftyp" and header[8:12] in BRANDS:
        kind = "an image of HEIF or AVIF"
    if kind:
        raise ImageError(f"{name}: expected a JPEG, PNG, WebP or TIFF image, got {kind}: save it as one of these")
    return open_vips(name, load, selection)
