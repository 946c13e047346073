"""The pages of a TIFF file: which page is scored, which page is its mask, and which pages are reduced copies of it.

The largest page that is not marked as a reduced copy or a mask is scored; of several such pages, the first. If all
pages of the file are reduced copies, as in a camera's DNG, the pages in their SubIFDs count.

A tiled page of the same aspect ratio is a reduced copy of a larger page: pyramids of slides are written as pages,
marked as reduced or not, and as SubIFDs. The pages of a map, which states its place on the earth, are not used as
copies: by default, GDAL makes them by leaving out pixels.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile

from tifffile import TiffFile, TiffPage

from service.errors import ImageError, LimitError
from service.images.picture import has_same_aspect_ratio

REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""
MAX_PAGES = 1000
"""Largest number of pages of which the largest is scored, and of later pages among which its mask is sought."""
MAX_PAGE = 10_000
"""Largest number of a page that can be chosen. The tags of all pages before it are read."""
MAX_COPIES = 16
GEO_KEYS = 34735
"""The tag of a map's coordinate system."""


@dataclass(frozen=True)
class SelectedPage:
    """The page that is scored, the pages that belong to it, and notes for the caller."""

    page: TiffPage
    mask: TiffPage | None
    """None: the page has no mask."""
    others: Sequence["PageEntry"]
    """Pages among which its reduced copies are sought."""
    notes: tuple[str, ...] = ()

    def copies(self, name: str) -> list[TiffPage]:
        """Return the reduced copies of the page, from large to small; raises LimitError for too many SubIFDs."""
        if GEO_KEYS in self.page.tags:
            return []
        size = int(self.page.imagelength), int(self.page.imagewidth)
        inner = islice(_entries(name, [self.page.pages or ()]), MAX_PAGES)
        copies = {entry.size: entry for entry in (*inner, *self.others) if entry.is_copy_of(size)}
        largest = sorted(copies.values(), key=lambda entry: -math.prod(entry.size))[:MAX_COPIES]
        return [page for page in (entry.load() for entry in largest) if page.is_tiled]


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

    def is_copy_of(self, size: tuple[int, int]) -> bool:
        """Return whether the page may be a reduced copy of a page of (height, width) pixels."""
        is_smaller = self.size[0] < size[0] and self.size[1] < size[1]
        return is_smaller and not self.kind & MASK and has_same_aspect_ratio(self.size, size)


def select_page(name: str, tiff: TiffFile, number: int) -> SelectedPage:
    """Return the page with a number, counted from 1, or for 0 the file's image.

    Raises ImageError or LimitError if there is no such page or too many, and ValueError for a file without pages.
    """
    entries = _entries(name, [tiff.pages])
    if number:
        return _numbered_page(name, entries, number)
    pages = list(islice(entries, MAX_PAGES))
    if not pages:
        raise ValueError("no pages")
    images = [page for page in pages if page.is_image]
    if not images:
        inner = _entries(name, (page.load().pages or () for page in pages))
        images = [page for page in islice(inner, MAX_PAGES) if page.is_image]
    if not images:
        raise ImageError(
            f"{name}: expected an image of full resolution, got only pages that are marked as reduced copies or "
            "masks; choose one of them with page (in the command --page 1)"
        )
    image = max(images, key=lambda page: math.prod(page.size))
    place = pages.index(image) + 1 if image in pages else 0
    equal = sum(page.size == image.size for page in images)
    count = f"the first {MAX_PAGES}" if next(entries, None) else len(pages)
    note = f"page {place} of {count} was scored; page (in the command --page N) chooses another"
    mask = _mask_of(image, pages[place:] if place else [])
    return SelectedPage(image.load(), mask, pages if place else (), (note,) if place and equal > 1 else ())


def _numbered_page(name: str, entries: Iterator[PageEntry], number: int) -> SelectedPage:
    """Return the page with a number, counted from 1; raises ImageError if there is no such page."""
    if number > MAX_PAGE:
        raise LimitError(
            f"{name}: page: expected at most {MAX_PAGE}, got {number}; save that page as a file of its own"
        )
    pages = list(islice(entries, number))
    if number > len(pages):
        raise ImageError(f"{name}: page: expected 1 to {len(pages)}, got {number}")
    later = list(takewhile(lambda other: not other.is_image, islice(entries, MAX_PAGES)))
    return SelectedPage(pages[-1].load(), _mask_of(pages[-1], later), later)


def _entries(name: str, sequences: Iterable[Sequence[TiffPage]]) -> Iterator[PageEntry]:
    """Yield the pages of some sequences, whose items are read anew. A sequence ends at a page that was read before.

    Raises LimitError if a page has too many SubIFDs.
    """
    offsets = set[int]()
    for pages in sequences:
        for number, page in enumerate(pages):
            if len(page.subifds or ()) > MAX_PAGES:
                raise LimitError(
                    f"{name}: expected at most {MAX_PAGES} SubIFDs in a page, got {len(page.subifds)}; save the page "
                    "to be scored as a file of its own"
                )
            if page.offset in offsets:
                break
            offsets.add(page.offset)
            size = (int(page.imagelength), int(page.imagewidth))
            yield PageEntry(size, int(page.subfiletype), partial(pages.__getitem__, number))


def _mask_of(page: PageEntry, later: Iterable[PageEntry]) -> TiffPage | None:
    """Load the mask of a page, which GDAL writes after it and before the next image, with the same size."""
    until_next_image = takewhile(lambda other: not other.is_image, later)
    masks = (
        other.load() for other in until_next_image if other.kind & (MASK | REDUCED) == MASK and other.size == page.size
    )
    return next(masks, None)
