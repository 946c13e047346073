"""Encoded images, in files or in memory: JPEG, PNG, WebP and TIFF, recognised by their first bytes."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from fullconv.common.libvips import pyvips
from fullconv.common.special_files import TooLargeError, read_whole
from fullconv.common.text import encodable
from service.errors import ImageError, LimitError
from service.images.decoding import EncodedFile
from service.images.defects import appearance, defect_of, format_of
from service.images.headers import JPEG, PNG, check_png_chunks, count_scans
from service.images.picture import FIRST_PAGE, PageSelection, Picture
from service.images.vips import open_vips

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files in either byte order."""
UNSUPPORTED = {
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
"""Names, for errors, of formats that are not read, by their first bytes."""
HEIF_BRANDS = {b"heic", b"heix", b"mif1", b"msf1", b"avif"}
HEADER_BYTES = 40
"""Number of first bytes that are enough to recognise the formats, and to show how another file begins."""
EXPECTED = "expected a JPEG, PNG, WebP or TIFF image"


def open_file(path: Path, selection: PageSelection = FIRST_PAGE, *, name: str = "") -> Picture:
    """Open an image file; raises ImageError. Default of `name`: the file's name.

    A pipe is read to its end at once; LimitError if it has more than 2 GiB. Devices are refused.
    """
    name = name or encodable(path.name)
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return open_bytes(_read_pipe(file, name), selection, name=name)
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None

    def load(**options: str) -> pyvips.Image:
        with path.open("rb") as file:  # from a path libvips would cut [...] at its end and take that for options
            return pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "", **options)

    picture = _open(name, header, load, lambda: path.open("rb"), selection)
    return replace(picture, file=EncodedFile(path, selection.page))


def _read_pipe(file: BinaryIO, name: str) -> bytes:
    """Return what a pipe holds; raises ImageError for a device, and LimitError."""
    try:
        return read_whole(file)
    except TooLargeError as error:
        raise LimitError(f"{name}: {error}") from None
    except ValueError as error:
        raise ImageError(f"{name}: {error}") from None


def open_bytes(data: bytes, selection: PageSelection = FIRST_PAGE, *, name: str) -> Picture:
    """Open an encoded image in memory; raises ImageError."""

    def load(**options: str) -> pyvips.Image:
        return pyvips.Image.new_from_source(pyvips.Source.new_from_memory(data), "", **options)  # makes no copy

    picture = _open(name, data[:HEADER_BYTES], load, lambda: BytesIO(data), selection)
    return replace(picture, file=EncodedFile(data, selection.page))


def _open(
    name: str,
    header: bytes,
    load: Callable[..., pyvips.Image],
    open_stream: Callable[[], BinaryIO],
    selection: PageSelection,
) -> Picture:
    """Open an image with the reader of its format: `load` opens it in libvips, `open_stream` as a stream of bytes."""
    if header.startswith(TIFF):
        from service.images.tiff import open_tiff  # noqa: PLC0415 (loads decoders that other files do not need)

        return open_tiff(name, open_stream, selection)
    kind = next((kind for start, kind in UNSUPPORTED.items() if header.startswith(start)), "")
    if header[4:8] == b"ftyp" and header[8:12] in HEIF_BRANDS:
        kind = "an image of HEIF or AVIF"
    if kind:
        raise ImageError(f"{name}: {EXPECTED}, got {kind}; save it as one of these")
    found = format_of(header)
    if not found:
        raise ImageError(f"{name}: {EXPECTED}, got {appearance(header)}")

    def error() -> ImageError:
        with open_stream() as stream:
            return ImageError(f"{name}: expected a complete {found} file, got {defect_of(stream)}")

    with open_stream() as stream:
        scans = count_scans(name, stream) if header.startswith(JPEG) else 1
        if header.startswith(PNG):
            check_png_chunks(name, stream)
        stored = stream.seek(0, os.SEEK_END)
        # of damaged pixels, the decoder of JPEG only warns; warnings of the others are about metadata
        load = partial(load, fail_on="warning" if header.startswith(JPEG) else "error")
        return open_vips(name, load, selection, error=error, stored_bytes=stored, scans=scans)
