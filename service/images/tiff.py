"""TIFF files: which page is the image, what its numbers mean, where it has data.

Of the pages that are not marked as reduced copies or masks, the largest one is scored, the first of several; where the
file's own pages are reduced copies, those in their SubIFDs count, as in a camera's DNG. Kinds that have no decoder here
are refused by name. The directory is read by tifffile, which runs nothing that a file says.
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
from service.images.photometric import SEPARATE, YCBCR, bytes_of, interpretation, stored_dtype
from service.images.picture import MAX_BANDS, MAX_SIDE, PageSelection, Picture, SampleReader
from service.images.tiff_codecs import NAMES, WITH_PREDICTOR, Coding
from service.images.tiff_rows import DataMaskRows, OrientedRows, Page, StoredRows, TiffRows

REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""
PAGES = 1000
"""Pages of a file that are looked at."""
PART_BYTES = 256 << 20
"""Bytes of the largest tile. A file with a larger row of tiles, or a larger strip, counts as decoded whole."""
WHOLE_BYTES = 1 << 30
"""Bytes of the numbers of the largest file that is decoded whole."""
TAGS_BYTES = 256 << 20
"""Bytes of the tags of all pages that are looked at."""
ORIENTATION, T4_OPTIONS, GDAL_NODATA = 274, 292, 42113
LOWEST_FIRST = 2
"""FillOrder of bytes whose first bit is the lowest."""


def open_tiff(name: str, read: Callable[[], BinaryIO], selection: PageSelection) -> Picture:
    """Open a TIFF file; `read` gives its bytes from the start. Raises ImageError."""
    try:
        with read() as file, TiffFile(file, name="image") as tiff:  # a name's suffix would change what it expects
            chosen, notes = _chosen(name, tiff, selection.page)
            return _picture(name, chosen, read, selection, notes)
    except (ImageError, MemoryError):
        raise
    except Exception:  # whatever a damaged directory leads to
        raise ImageError(f"{name}: not a whole TIFF image: its directory is damaged or cut short") from None


@dataclass(frozen=True)
class Chosen:
    """The page that is scored, and the one that says where it has data."""

    page: TiffPage
    mask: TiffPage | None


@dataclass(frozen=True)
class Entry:
    """One page of a file, or one in a SubIFD of a page, of which no more is kept: tags may be long."""

    size: tuple[int, int]
    """Height and width in pixels."""
    kind: int
    """NewSubfileType."""
    load: Callable[[], TiffPage]

    @property
    def is_image(self) -> bool:
        """Whether it is neither a reduced copy nor a mask."""
        return not self.kind & (REDUCED | MASK)


def _chosen(name: str, tiff: TiffFile, number: int) -> tuple[Chosen, tuple[str, ...]]:
    """The page asked for by its number from 1, or the image of the file; and what there is to say of the others."""
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
        images = [page for page in islice(inner, PAGES) if page.is_image]
    if not images:
        raise ImageError(
            f"{name}: expected an image of full resolution, got {len(pages)} pages that are marked as reduced copies "
            "or masks: choose one with page, in the command --page 1"
        )
    image = max(images, key=lambda page: math.prod(page.size))
    place = pages.index(image) + 1 if image in pages else 0
    equal = sum(page.size == image.size for page in images)
    note = f"page {place} of {len(pages)} was scored; page (in the command --page N) chooses another"
    return _with_mask(image, pages[place:] if place else []), (note,) if place and equal > 1 else ()


def _entries(pages: Sequence[TiffPage]) -> Iterator[Entry]:
    """The first pages of a sequence that reads each anew; raises ValueError if their tags are too long."""
    read = 0
    for number, page in enumerate(islice(pages, PAGES)):
        read += sum(tag.valuebytecount for tag in page.tags)
        if read > TAGS_BYTES:
            raise ValueError("tags of more than can be kept")
        yield Entry(
            (int(page.imagelength), int(page.imagewidth)), int(page.subfiletype), partial(pages.__getitem__, number)
        )


def _with_mask(page: Entry, others: list[Entry]) -> Chosen:
    """A page and its mask, which GDAL writes behind it, before the next image, as a page of the same size."""
    own = takewhile(lambda other: not other.is_image, others)
    masks = (other.load() for other in own if other.kind & (MASK | REDUCED) == MASK and other.size == page.size)
    return Chosen(page.load(), next(masks, None))


def _page(name: str, page: TiffPage, nodata: float) -> Page:
    """Where a page's tiles lie, and how they are stored; raises ImageError, by name, for what has no decoder here."""
    compression = int(page.compression)
    if compression not in NAMES:
        kind = getattr(page.compression, "name", f"number {compression}")
        raise ImageError(
            f"{name}: TIFF with {kind} compression, which is not read: save it with Deflate or LZW instead"
        )
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise ImageError(f"{name}: a TIFF volume of depth {page.imagedepth}: save one of its planes")
    height, width, bands = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    part = (page.tilelength, page.tilewidth) if page.is_tiled else (max(1, min(page.rowsperstrip, height)), width)
    dtype = stored_dtype(page).newbyteorder(page.parent.byteorder)
    _check_sizes(name, (height, width, bands), part if page.is_tiled else (1, 1), dtype.itemsize)
    separate = page.planarconfig == SEPARATE and bands > 1
    coding = Coding(
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
    return Page(
        name, height, width, bands, part, page.is_tiled, separate,
        tuple(page.dataoffsets), tuple(page.databytecounts), coding, nodata,
    )  # fmt: skip


def _check_sizes(name: str, shape: tuple[int, int, int], tile: tuple[int, int], itemsize: int) -> None:
    """Raise ImageError for sides and tiles that are empty or too large."""
    bands = shape[2]
    fields = ("height", "width", "bands", "tile's height", "tile's width")
    for field, value in zip(fields, (*shape, *tile), strict=True):
        most = MAX_BANDS if field == "bands" else MAX_SIDE
        if not 0 < value <= most:
            raise ImageError(f"{name}: {field}: expected 1 to {most}, got {value}")
    if math.prod(tile) * bands * itemsize > PART_BYTES:
        raise LimitError(
            f"{name}: tile: expected at most {PART_BYTES >> 20} MiB, got {tile[0]}×{tile[1]} pixels of {bands} bands "
            f"of {itemsize} bytes: save it with smaller tiles"
        )


def _picture(
    name: str, chosen: Chosen, read: Callable[[], BinaryIO], selection: PageSelection, notes: tuple[str, ...]
) -> Picture:
    try:
        nodata = _nodata(chosen.page)
        page, meaning = _page(name, chosen.page, nodata or 0), interpretation(chosen.page)
        mask = _page(name, chosen.mask, 0) if chosen.mask is not None else None
    except ValueError as error:
        raise ImageError(
            f"{name}: TIFF that holds {error}, which is not read: save it as RGB or grey of 8 or 16 bits"
        ) from None
    orientation = int(chosen.page.tags.valueof(ORIENTATION, default=1))
    turns = orientation in range(2, 9)

    def turned(rows: SampleReader) -> SampleReader:
        return OrientedRows(rows, page.height, orientation) if turns else rows

    def begin() -> SampleReader:
        return turned(TiffRows(name, StoredRows(page, read), meaning))

    def open_data_mask() -> SampleReader:
        masked = StoredRows(mask, read) if mask is not None else None
        return turned(DataMaskRows(StoredRows(page, read), tested, nodata, masked))

    tested = _tested(page.bands, meaning.samples.alpha, selection.bands)
    partly = nodata is not None or mask is not None or page.coding.dtype.kind == "f"
    height, width = (page.width, page.height) if turns and orientation > 4 else (page.height, page.width)
    whole = turns or page.part_bytes > PART_BYTES
    if whole and page.bytes > WHOLE_BYTES:
        raise LimitError(
            f"{name}: expected at most {WHOLE_BYTES >> 20} MiB in one strip, or in a file that its Orientation turns, "
            f"got {page.bytes >> 20}: save it as a tiled TIFF, upright"
        )
    return Picture(
        name, height, width, meaning.samples, begin, selection.bands, open_data_mask if partly else None,
        whole=whole, notes=notes,
    )  # fmt: skip


def _tested(stored: int, alpha: int | None, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """The stored bands, counted from 0, in which the nodata value is looked for: those that are scored."""
    if chosen and stored > 1:
        return tuple(band - 1 for band in chosen if band <= stored)
    return tuple(band for band in range(stored) if band != alpha)


def _nodata(page: TiffPage) -> float | int | None:
    """The number that stands for no data, if the page can hold it."""
    text, dtype = str(page.tags.valueof(GDAL_NODATA, default="")).strip("\0 "), stored_dtype(page)
    try:
        value = float(text)
        if dtype.kind == "f":
            return value
        number = int(text) if text.lstrip("+-").isdecimal() else int(value)
    except (OverflowError, ValueError):  # no number, or NaN or infinity, which integers cannot be
        return None
    limits = np.iinfo(dtype)
    most = limits.max if dtype.kind == "i" else (1 << page.bitspersample) - 1
    return number if value.is_integer() and limits.min <= number <= most else None
