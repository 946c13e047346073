"""TIFF files: which page is the image, what its numbers mean, where it has data.

Of the pages that are not marked as reduced copies or masks, the largest one is scored, the first of several; where the
file's own pages are reduced copies, those in their SubIFDs count, as in a camera's DNG. Kinds that have no decoder here
are refused by name. The directory is read by tifffile, which runs nothing that a file says.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO

import numpy as np
from tifffile import TiffFile, TiffPage

from service.errors import ImageError
from service.images.photometric import YCBCR, interpretation, stored_dtype
from service.images.picture import MAX_SIDE, Picture, SampleRows, Selection
from service.images.tiff_codecs import NAMES, WITH_PREDICTOR, Coding
from service.images.tiff_rows import Page, StoredRows, TiffRows, TurnedRows, ValidRows

REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""
PAGES = 1000
"""Pages of a file that are looked at."""
PART_BYTES = 256 << 20
"""Bytes of one row of tiles, or of one strip: a file of larger ones is decoded whole."""
ORIENTATION, T4_OPTIONS, GDAL_NODATA = 274, 292, 42113
SEPARATE, LOWEST_FIRST = 2, 2
"""PlanarConfiguration of bands apart; FillOrder of bytes whose first bit is the lowest."""


def open_tiff(name: str, read: Callable[[], BinaryIO], selection: Selection) -> Picture:
    """Open a TIFF file; `read` gives its bytes from the start. Raises ImageError."""
    try:
        with read() as file, TiffFile(file) as tiff:
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


def _chosen(name: str, tiff: TiffFile, number: int) -> tuple[Chosen, tuple[str, ...]]:
    """The page asked for by its number from 1, or the image of the file; and what there is to say of the others."""
    pages = [page for page in islice(tiff.pages, PAGES) if isinstance(page, TiffPage)]
    if not pages:
        raise ValueError("no pages")
    if number > len(pages):
        raise ImageError(f"{name}: page: expected 1 to {len(pages)}, got {number}")
    if number:
        return _with_mask(pages[number - 1], pages[number:]), ()
    images = [page for page in pages if not page.subfiletype & (REDUCED | MASK)]
    if not images:
        inner = islice(chain.from_iterable(page.pages or () for page in pages), PAGES)
        images = [page for page in inner if not page.subfiletype & (REDUCED | MASK)]
    if not images:
        raise ImageError(
            f"{name}: expected an image of full resolution, got {len(pages)} pages that are marked as reduced copies "
            "or masks: choose one with page, in the command --page 1"
        )
    page = max(images, key=lambda image: math.prod(_size(image)))
    place = pages.index(page) + 1 if page in pages else 0
    equal = sum(_size(image) == _size(page) for image in images)
    note = f"page {place} of {len(pages)} was scored; page (in the command --page N) chooses another"
    return _with_mask(page, pages[place:]), (note,) if place and equal > 1 else ()


def _with_mask(page: TiffPage, others: list[TiffPage]) -> Chosen:
    """A page and its mask, which GDAL writes as a page of the same size."""
    masks = (other for other in others if other.subfiletype & (MASK | REDUCED) == MASK and _size(other) == _size(page))
    return Chosen(page, next(masks, None))


def _size(page: TiffPage) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


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
    height, width = _size(page)
    part = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    sizes = {"height": height, "width": width, "bands": page.samplesperpixel, "tile": min(part)}
    for field, value in sizes.items():
        if not 0 < value <= MAX_SIDE:
            raise ImageError(f"{name}: {field}: expected 1 to {MAX_SIDE}, got {value}")
    if page.is_tiled and math.prod(part) > PART_BYTES:
        raise ImageError(f"{name}: expected tiles of at most {PART_BYTES >> 20} megapixels, got {part[0]}×{part[1]}")
    separate = page.planarconfig == SEPARATE and page.samplesperpixel > 1
    coding = Coding(
        compression,
        stored_dtype(page).newbyteorder(page.parent.byteorder),
        page.bitspersample,
        1 if separate else page.samplesperpixel,
        int(page.predictor) if compression in WITH_PREDICTOR else 1,
        reversed=page.fillorder == LOWEST_FIRST,
        ycbcr=page.photometric == YCBCR,
        t4_options=int(page.tags.valueof(T4_OPTIONS, default=0)),
        tables=bytes(page.jpegtables or b""),
    )
    return Page(
        name, height, width, page.samplesperpixel, part, page.is_tiled, separate,
        tuple(page.dataoffsets), tuple(page.databytecounts), coding, nodata,
    )  # fmt: skip


def _picture(
    name: str, chosen: Chosen, read: Callable[[], BinaryIO], selection: Selection, notes: tuple[str, ...]
) -> Picture:
    nodata = _nodata(chosen.page)
    try:
        page, meaning = _page(name, chosen.page, nodata or 0), interpretation(chosen.page)
        mask = _page(name, chosen.mask, 0) if chosen.mask is not None else None
    except ValueError as error:
        raise ImageError(f"{name}: TIFF that holds {error}, which is not read: convert it to RGB or grey") from None
    orientation = int(chosen.page.tags.valueof(ORIENTATION, default=1))
    turns = orientation in range(2, 9)

    def turned(rows: SampleRows) -> SampleRows:
        return TurnedRows(rows, page.height, orientation) if turns else rows

    def begin() -> SampleRows:
        return turned(TiffRows(StoredRows(page, read), meaning))

    def begin_valid() -> SampleRows:
        masked = StoredRows(mask, read) if mask is not None else None
        return turned(ValidRows(StoredRows(page, read), tested, nodata, masked))

    tested = _tested(page.bands, meaning.samples.alpha, selection.bands)
    partly = nodata is not None or mask is not None or page.coding.dtype.kind == "f"
    height, width = (page.width, page.height) if turns and orientation > 4 else (page.height, page.width)
    return Picture(
        name, height, width, meaning.samples, begin, selection.bands, begin_valid if partly else None,
        is_whole=lambda: turns or page.part_bytes > PART_BYTES, notes=notes,
    )  # fmt: skip


def _tested(stored: int, alpha: int | None, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """The stored bands, counted from 0, in which the nodata value is looked for: those that are scored."""
    if chosen and stored > 1:
        return tuple(band - 1 for band in chosen if band <= stored)
    return tuple(band for band in range(stored) if band != alpha)


def _nodata(page: TiffPage) -> float | None:
    """The number that stands for no data, if the page can hold it."""
    text = page.tags.valueof(GDAL_NODATA, default=None)
    try:
        value = float(str(text).strip("\0 "))
    except ValueError:
        return None
    dtype = page.dtype
    if dtype is not None and dtype.kind == "f":
        return value
    if dtype is None or not value.is_integer():
        return None
    least, most = 0, (1 << page.bitspersample) - 1
    if dtype.kind == "i":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    return value if least <= value <= most else None
