"""TIFF files: which page is scored, what its numbers mean, and where it has data.

The largest page that is not marked as a reduced copy or a mask is scored; of several such pages, the first. If all
pages of the file are reduced copies, as in a camera's DNG, the pages in their SubIFDs count. Kinds that have no decoder
here are refused; the error names the kind. tifffile reads the directory and runs no code from the file.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, takewhile
from typing import BinaryIO

import numpy as np
from tifffile import TiffFile, TiffPage

from service.errors import ImageError, LimitError
from service.images.photometric import SEPARATE, YCBCR, Interpretation, bytes_of, interpretation, stored_dtype
from service.images.picture import MAX_BANDS, MAX_SIDE, PageSelection, Picture, SampleReader
from service.images.tiff_codecs import NAMES, WITH_PREDICTOR, BlockCodec
from service.images.tiff_rows import OrientedRows, StoredPage, StoredRows, TiffDataMask, TiffRows

REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""
MAX_PAGES = 1000
"""Largest number of pages of a file whose tags are read."""
MAX_BLOCK_BYTES = 256 << 20
"""Bytes of the largest tile, decoded. A file with a larger row of tiles, or a larger strip, counts as decoded whole."""
MAX_WHOLE_BYTES = 1 << 30
"""Bytes of the largest page that is decoded whole."""
MAX_TAGS_BYTES = 256 << 20
"""Largest size in bytes of the tags of all these pages."""
ORIENTATION, T4_OPTIONS, GDAL_NODATA = 274, 292, 42113
LOWEST_FIRST = 2
"""FillOrder of bytes whose first bit is the lowest."""


def open_tiff(name: str, open_stream: Callable[[], BinaryIO], selection: PageSelection) -> Picture:
    """Open a TIFF file; `open_stream` returns its bytes from the start. Raises ImageError."""
    try:
        # the name is constant because tifffile treats some suffixes of file names differently
        with open_stream() as stream, TiffFile(stream, name="image") as tiff:
            selected, notes = _select_page(name, tiff, selection.page)
            return _tiff_image(name, selected, open_stream, selection.bands).picture(selection.bands, notes)
    except (ImageError, MemoryError):
        raise
    except Exception:  # a damaged directory may raise any error
        raise ImageError(f"{name}: expected a complete TIFF file, got a damaged or truncated directory") from None


@dataclass(frozen=True)
class PageWithMask:
    """The page that is scored, and the page that is its mask. Default: no mask."""

    page: TiffPage
    mask: TiffPage | None


@dataclass(frozen=True)
class PageEntry:
    """One page of a file, or of a page's SubIFDs, without its tags, which may be long."""

    size: tuple[int, int]
    """Height and width in pixels."""
    kind: int
    """NewSubfileType."""
    load: Callable[[], TiffPage]

    @property
    def is_image(self) -> bool:
        """Whether the page is neither a reduced copy nor a mask."""
        return not self.kind & (REDUCED | MASK)


def _select_page(name: str, tiff: TiffFile, number: int) -> tuple[PageWithMask, tuple[str, ...]]:
    """Return the page with a number, counted from 1, or for 0 the file's image, and the notes for the caller."""
    pages = list(_entries(tiff.pages))
    if not pages:
        raise ValueError("no pages")
    if number > len(pages):
        raise ImageError(f"{name}: page: expected 1 to {len(pages)}, got {number}")
    if number:
        return _with_mask(pages[number - 1], pages[number:]), ()
    images = [page for page in pages if page.is_image]
    if not images:
        inner = chain.from_iterable(_entries(page.load().pages or ()) for page in pages)
        images = [page for page in islice(inner, MAX_PAGES) if page.is_image]
    if not images:
        raise ImageError(
            f"{name}: expected an image of full resolution, got {len(pages)} pages that are marked as reduced copies "
            "or masks: choose one of them with page (in the command --page 1)"
        )
    image = max(images, key=lambda page: math.prod(page.size))
    place = pages.index(image) + 1 if image in pages else 0
    equal = sum(page.size == image.size for page in images)
    note = f"page {place} of {len(pages)} was scored; page (in the command --page N) chooses another"
    return _with_mask(image, pages[place:] if place else []), (note,) if place and equal > 1 else ()


def _entries(pages: Sequence[TiffPage]) -> Iterator[PageEntry]:
    """Yield the first pages of a sequence, whose items are read anew; raises ValueError if their tags are too long."""
    tags_bytes = 0
    for number, page in enumerate(islice(pages, MAX_PAGES)):
        tags_bytes += sum(tag.valuebytecount for tag in page.tags)
        if tags_bytes > MAX_TAGS_BYTES:
            raise ValueError("tags that are too large")
        size = (int(page.imagelength), int(page.imagewidth))
        yield PageEntry(size, int(page.subfiletype), partial(pages.__getitem__, number))


def _with_mask(page: PageEntry, later: list[PageEntry]) -> PageWithMask:
    """Load a page and its mask, which GDAL writes after it and before the next image, with the same size."""
    until_next_image = takewhile(lambda other: not other.is_image, later)
    masks = (
        other.load() for other in until_next_image if other.kind & (MASK | REDUCED) == MASK and other.size == page.size
    )
    return PageWithMask(page.load(), next(masks, None))


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
                f"Orientation, got {page.decoded_bytes >> 20}: save it as a tiled TIFF file without rotation"
            )
        is_transposed = self._is_reoriented and self.orientation > 4
        height, width = (page.width, page.height) if is_transposed else (page.height, page.width)
        may_lack_data = self.nodata is not None or self.mask is not None or page.codec.dtype.kind == "f"
        open_data_mask = self._open_data_mask if may_lack_data else None
        layout = self.interpretation.layout
        return Picture(
            page.name, height, width, layout, self._open_samples, bands, open_data_mask,
            decoded_whole=decoded_whole, notes=notes,
        )  # fmt: skip

    @property
    def _is_reoriented(self) -> bool:
        return self.orientation in range(2, 9)

    def _open_samples(self) -> SampleReader:
        return self._reorient(TiffRows(self.page.name, StoredRows(self.page, self.open_stream), self.interpretation))

    def _open_data_mask(self) -> SampleReader:
        mask = StoredRows(self.mask, self.open_stream) if self.mask is not None else None
        stored = StoredRows(self.page, self.open_stream)
        return self._reorient(TiffDataMask(stored, self.tested_bands, self.nodata, mask))

    def _reorient(self, rows: SampleReader) -> SampleReader:
        return OrientedRows(rows, self.page.height, self.orientation) if self._is_reoriented else rows


def _tiff_image(
    name: str, selected: PageWithMask, open_stream: Callable[[], BinaryIO], bands: tuple[int, ...]
) -> TiffImage:
    """Return the meaning of a page and its mask; raises ImageError that names a kind without a decoder."""
    try:
        nodata = _nodata(selected.page)
        page, meaning = _stored_page(name, selected.page, nodata or 0), interpretation(selected.page)
        mask = _stored_page(name, selected.mask, 0) if selected.mask is not None else None
    except ValueError as error:
        raise ImageError(
            f"{name}: expected a TIFF file of a supported kind, got {error}: save it as RGB or grey of 8 or 16 bits"
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
            f"{name}: expected a TIFF file with a supported compression, got {kind}: save it with Deflate or LZW"
        )
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise ImageError(
            f"{name}: expected a plane, got a TIFF volume of depth {page.imagedepth}: save one of its planes"
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
            f"bands of {itemsize} bytes: save it with smaller tiles"
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
