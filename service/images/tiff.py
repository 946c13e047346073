"""TIFF files: what the numbers of a page mean, and where it has data. `tiff_pages` selects the page.

Kinds that have no decoder here are refused; the error names the kind. tifffile reads the directory and runs no code
from the file.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import RawIOBase
from typing import Any, BinaryIO

import numpy as np
from tifffile import TiffFile, TiffPage

from service.errors import ImageError, LimitError
from service.images.decoding import DecodingCost, Pause
from service.images.defects import directory_defect_of
from service.images.orientation import TURN_SECONDS, OrientedRows
from service.images.photometric import SEPARATE, YCBCR, Interpretation, bytes_of, interpretation, stored_dtype
from service.images.picture import MAX_BANDS, MAX_SIDE, PageSelection, Picture, SampleReader
from service.images.tiff_codecs import JPEG, NAMES, PACKBITS, UNCOMPRESSED, WITH_PREDICTOR, BlockCodec
from service.images.tiff_optics import optics_of_page
from service.images.tiff_pages import SelectedPage, select_page
from service.images.tiff_rows import StoredPage, StoredRows, TiffDataMask, TiffRows

MAX_BLOCK_BYTES = 256 << 20
"""Bytes of the largest tile, decoded. A file with a larger row of tiles, or a larger strip, counts as decoded whole."""
MAX_WHOLE_BYTES = 1 << 30
"""Bytes of the largest page that is decoded whole."""
MAX_TAGS_BYTES = 64 << 20
"""Largest size in bytes of the directories and tags that are read, enough for 250 gigapixels in tiles of 256×256
pixels. As numbers of Python they take ten times as much memory."""
ORIENTATION, T4_OPTIONS, GDAL_NODATA = 274, 292, 42113
SECONDS_PER_BYTE = {UNCOMPRESSED: 1e-9, JPEG: 5e-9, PACKBITS: 3e-9}
SLOWEST = 10e-9
"""Seconds for each decoded byte, by compression, and of all other compressions."""
BLOCK_COPIES = 8
"""How often a block is in memory while it is decoded: as bytes, as numbers, and in libtiff and libvips."""
LOWEST_FIRST = 2
"""FillOrder of bytes whose first bit is the lowest."""


def open_tiff(name: str, open_stream: Callable[[], BinaryIO], selection: PageSelection) -> Picture:
    """Open a TIFF file; `open_stream` returns its bytes from the start. Raises ImageError."""
    try:
        # the name is constant because tifffile treats some suffixes of file names differently
        with open_stream() as stream, TiffFile(_Directories(name, stream), name="image") as tiff:
            selected = select_page(name, tiff, selection.page)
            picture = _tiff_image(name, selected, open_stream, selection.bands).picture(selection.bands, selected.notes)
            return picture if picture.decoded_whole else _as_slide(picture, tiff, selected, open_stream)
    except (ImageError, MemoryError):
        raise
    except Exception:  # a damaged directory may raise any error
        with open_stream() as stream:
            raise ImageError(f"{name}: expected a complete TIFF file, got {directory_defect_of(stream)}") from None


class _Directories(RawIOBase):
    """The bytes of a file, of which a limited number may be read: tags may claim to be as long as the file."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self._name, self._stream, self._left = name, stream, MAX_TAGS_BYTES

    def read(self, size: int = -1) -> bytes:
        """Read bytes; raises LimitError if they are more than are left."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise LimitError(
                f"{self._name}: expected at most {MAX_TAGS_BYTES >> 20} MiB of directories and tags, got more; save "
                "the page to be scored as a file of its own, with larger tiles"
            )
        return self._stream.read(size)

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 (a buffer)
        """Read bytes into a buffer; returns their number. Raises LimitError."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()


@dataclass(frozen=True)
class TiffImage:
    """The scored page, its mask, and the meaning of their numbers."""

    page: StoredPage
    mask: StoredPage | None
    interpretation: Interpretation
    nodata: float | None
    orientation: int
    tested_bands: tuple[int, ...]
    """The stored bands, counted from 0, in which nodata and NaN mean that a pixel has no data."""
    open_stream: Callable[[], BinaryIO]

    def picture(self, bands: tuple[int, ...], notes: tuple[str, ...]) -> Picture:
        """Return the image of some bands, counted from 1; raises LimitError if it is too large to be decoded whole."""
        page = self.page
        decoded_whole = self._is_reoriented or page.block_row_bytes > MAX_BLOCK_BYTES
        if decoded_whole and page.decoded_bytes > MAX_WHOLE_BYTES:
            raise LimitError(
                f"{page.name}: expected at most {MAX_WHOLE_BYTES >> 20} MiB in one strip, or in a file with the tag "
                f"Orientation, got {page.decoded_bytes >> 20} MiB; save it as a tiled TIFF file without rotation"
            )
        is_transposed = self._is_reoriented and self.orientation > 4
        height, width = (page.width, page.height) if is_transposed else (page.height, page.width)
        may_lack_data = self.nodata is not None or self.mask is not None or page.codec.dtype.kind == "f"
        open_data_mask = self._open_data_mask if may_lack_data else None
        layout = self.interpretation.layout
        return Picture(
            page.name, height, width, layout, self._open_samples, bands, open_data_mask,
            decoded_whole=decoded_whole, notes=notes, cost=self._cost,
        )  # fmt: skip

    @property
    def _is_reoriented(self) -> bool:
        return self.orientation in range(2, 9)

    def _open_samples(self, pause: Pause) -> SampleReader:
        stored = StoredRows(self.page, self.open_stream, pause)
        return self._reorient(TiffRows(self.page.name, stored, self.interpretation), pause)

    def _open_data_mask(self, pause: Pause) -> SampleReader:
        mask = StoredRows(self.mask, self.open_stream, pause) if self.mask is not None else None
        stored = StoredRows(self.page, self.open_stream, pause)
        return self._reorient(TiffDataMask(stored, self.tested_bands, self.nodata, mask), pause)

    def _reorient(self, rows: SampleReader, pause: Pause) -> SampleReader:
        return OrientedRows(rows, self.page.height, self.orientation, pause) if self._is_reoriented else rows

    @property
    def _cost(self) -> DecodingCost:
        """What decoding the page once costs. A row of blocks is held as numbers, and a block as bytes as well."""
        page = self.page
        held = 2 * page.block_row_bytes + BLOCK_COPIES * page.block_bytes + page.decoded_bytes * self._is_reoriented
        turning = page.height * page.width * TURN_SECONDS * self._is_reoriented
        rate = SECONDS_PER_BYTE.get(page.codec.compression, SLOWEST)
        return DecodingCost(
            f"TIFF with {NAMES[page.codec.compression]} compression", held, page.decoded_bytes * rate + turning,
            page.block_bytes * rate,
        )  # fmt: skip


def _as_slide(picture: Picture, tiff: TiffFile, selected: SelectedPage, open_stream: Callable[[], BinaryIO]) -> Picture:
    """Return a picture with its optics and its reduced copies, or as it is if their tags are damaged."""
    try:
        copies = tuple(_copies(picture, selected, open_stream))
        return replace(picture, optics=optics_of_page(tiff, selected.page), copies=copies)
    except MemoryError:
        raise
    except Exception:  # a damaged directory may raise any error, and the image can be scored without
        return picture


def _copies(picture: Picture, selected: SelectedPage, open_stream: Callable[[], BinaryIO]) -> Iterator[Picture]:
    """Yield the reduced copies of a picture that can be decoded alike; other copies are not needed."""
    for page in selected.copies(picture.name):
        try:
            copy = _tiff_image(picture.name, SelectedPage(page, None, ()), open_stream, picture.bands).picture(
                picture.bands, ()
            )
        except (ImageError, ValueError):
            continue
        if copy.layout == picture.layout and copy.cost.step_seconds <= picture.cost.step_seconds:
            yield copy


def _tiff_image(
    name: str, selected: SelectedPage, open_stream: Callable[[], BinaryIO], bands: tuple[int, ...]
) -> TiffImage:
    """Return the meaning of a page and its mask; raises ImageError that names a kind without a decoder."""
    try:
        nodata = _nodata(selected.page)
        page, meaning = _stored_page(name, selected.page, nodata or 0), interpretation(selected.page)
        mask = _stored_page(name, selected.mask, 0) if selected.mask is not None else None
    except ValueError as error:
        raise ImageError(
            f"{name}: expected a TIFF file of a supported kind, got {error}; save it as RGB or grey of 8 or 16 bits"
        ) from None
    orientation = int(selected.page.tags.valueof(ORIENTATION, default=1))
    tested_bands = _tested_bands(page.bands, meaning.layout.alpha, bands)
    return TiffImage(page, mask, meaning, nodata, orientation, tested_bands, open_stream)


def _stored_page(name: str, page: TiffPage, nodata: float) -> StoredPage:
    """Return where a page's blocks lie and how they are stored.

    Raises ImageError or ValueError, which name a kind without a decoder.
    """
    compression = int(page.compression)
    if compression not in NAMES:
        kind = getattr(page.compression, "name", f"number {compression}")
        raise ImageError(
            f"{name}: expected a TIFF file with a supported compression, got {kind}; save it with Deflate or LZW"
        )
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise ImageError(
            f"{name}: expected a plane, got a TIFF volume of depth {page.imagedepth}; save one of its planes"
        )
    height, width, bands = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    if page.is_tiled:
        block_shape = (page.tilelength, page.tilewidth)
    else:
        block_shape = (max(1, min(page.rowsperstrip, height)), width)
    dtype = stored_dtype(page).newbyteorder(page.parent.byteorder)
    _check_sizes(name, (height, width, bands), block_shape if page.is_tiled else (1, 1), dtype.itemsize)
    separate = page.planarconfig == SEPARATE and bands > 1
    codec = BlockCodec(
        compression,
        dtype,
        page.bitspersample,
        1 if separate else bands,
        int(page.predictor) if compression in WITH_PREDICTOR else 1,
        reversed=page.fillorder == LOWEST_FIRST,
        ycbcr=page.photometric == YCBCR,
        t4_options=int(page.tags.valueof(T4_OPTIONS, default=0)),
        tables=bytes_of(page.jpegtables or b""),
    )
    return StoredPage(
        name, height, width, bands, block_shape, page.is_tiled, separate,
        tuple(page.dataoffsets), tuple(page.databytecounts), codec, nodata,
    )  # fmt: skip


def _check_sizes(name: str, shape: tuple[int, int, int], tile: tuple[int, int], itemsize: int) -> None:
    """Raise ImageError for sizes of a page or its tiles that are 0 or too large."""
    bands = shape[2]
    fields = ("height", "width", "bands", "tile's height", "tile's width")
    for field, value in zip(fields, (*shape, *tile), strict=True):
        largest = MAX_BANDS if field == "bands" else MAX_SIDE
        if not 0 < value <= largest:
            raise ImageError(f"{name}: {field}: expected 1 to {largest}, got {value}")
    if math.prod(tile) * bands * itemsize > MAX_BLOCK_BYTES:
        raise LimitError(
            f"{name}: tile: expected at most {MAX_BLOCK_BYTES >> 20} MiB, got {tile[0]}×{tile[1]} pixels of {bands} "
            f"bands of {itemsize} bytes; save it with smaller tiles"
        )


def _tested_bands(stored: int, alpha: int | None, selected: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stored bands, counted from 0, that are tested for nodata: the scored bands without alpha."""
    if selected and stored > 1:
        return tuple(band - 1 for band in selected if band <= stored)
    return tuple(band for band in range(stored) if band != alpha)


def _nodata(page: TiffPage) -> float | int | None:
    """Return the number that marks pixels without data; None if the file states no number that the page can hold."""
    text, dtype = str(page.tags.valueof(GDAL_NODATA, default="")).strip("\0 "), stored_dtype(page)
    try:
        value = float(text)
        if dtype.kind == "f":
            return value
        number = int(text) if text.lstrip("+-").isdecimal() else int(value)
    except (OverflowError, ValueError):  # no number; or NaN or infinity, which integers cannot be
        return None
    limits = np.iinfo(dtype)
    largest = limits.max if dtype.kind == "i" else (1 << page.bitspersample) - 1
    return number if value.is_integer() and limits.min <= number <= largest else None
