"""Files with very many pages, and with chains of pages that have no end, cost little to open."""

import struct
import tracemalloc
from collections.abc import Mapping
from io import BytesIO

import pytest

from service.errors import ImageError, LimitError
from service.images import tiff
from service.images.encoded import open_bytes
from service.images.picture import PageSelection, Picture
from service.images.tiff import open_tiff
from service.images.tiff_pages import MAX_PAGE, MAX_PAGES

SIDE = 8
START = 8 + SIDE * SIDE
"""Offset of the first directory, after the header and the pixels, which all pages share."""
TAGS = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: SIDE, 279: SIDE * SIDE}
REDUCED = {254: 1}


def directory(tags: Mapping[int, int | tuple[int, int]], following: int) -> bytes:
    """A directory of 32-bit integers, each alone or as (count, offset), and the offset of the following directory."""
    entries = [(tag, *(value if isinstance(value, tuple) else (1, value))) for tag, value in sorted(tags.items())]
    packed = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


SIZE = len(directory(TAGS, 0))


def chain(pages: int, *, back_to: int | None = None) -> bytes:
    """A file of equal pages, whose last one is followed by an earlier one, counted from 0, or by no page."""
    offsets = [START + SIZE * number for number in range(pages)]
    last = 0 if back_to is None else offsets[back_to]
    head = struct.pack("<4sI", b"II*\0", START) + bytes(SIDE * SIDE)
    return head + b"".join(directory(TAGS, following) for following in [*offsets[1:], last])


def opened(data: bytes, page: int = 0) -> Picture:
    return open_bytes(data, PageSelection(page=page), name="i")


@pytest.mark.parametrize("back_to", [0, 1, 149], ids=["to the first", "to the second", "to itself"])
def test_chains_without_end(back_to: int) -> None:
    """A chain of pages that comes back ends there: its pages are counted once, and there is no page after them."""
    data = chain(150, back_to=back_to)
    assert [note[:30] for note in opened(data).notes] == ["page 1 of 150 was scored; page"]
    assert opened(data, 150).width == SIDE
    with pytest.raises(ImageError, match="page: expected 1 to 150, got 151"):
        opened(data, 151)


def test_pages_are_counted_up_to_a_number() -> None:
    """Of a file of very many pages the first are looked at, and the warning says so."""
    for pages, said in ((MAX_PAGES, f"page 1 of {MAX_PAGES}"), (MAX_PAGES + 1, f"page 1 of the first {MAX_PAGES}")):
        (note,) = opened(chain(pages)).notes
        assert note == f"{said} was scored; page (in the command --page N) chooses another"


def test_pages_after_the_limit_are_refused() -> None:
    """A page up to the limit can be chosen, a later one is refused without reading the file's pages."""
    data = chain(MAX_PAGE + 1)
    assert opened(data, MAX_PAGE).width == SIDE
    with pytest.raises(LimitError, match=f"page: expected at most {MAX_PAGE}, got {MAX_PAGE + 1}; save that page as"):
        opened(data, MAX_PAGE + 1)


@pytest.mark.parametrize("page", [1, 2, 700])
def test_a_chosen_page_needs_no_later_ones(page: int) -> None:
    """To choose page N of many, at most N directories are read and the one that follows."""
    furthest = 0

    class Watched(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal furthest
            data = super().read(size)
            furthest = max(furthest, self.tell())
            return data

    data = chain(2000)
    open_tiff("i", lambda: Watched(data), PageSelection(page=page))
    assert furthest <= START + SIZE * (page + 1)


@pytest.mark.parametrize("count", [MAX_PAGES + 1, 900_000])
def test_many_inner_pages_are_refused(count: int) -> None:
    """A page with more SubIFDs than are looked at is refused."""
    inner = directory(TAGS, 0)
    first = START + len(inner)
    tags = TAGS | REDUCED | {330: (count, first + len(directory(TAGS | REDUCED | {330: 0}, 0)))}
    head = struct.pack("<4sI", b"II*\0", first) + bytes(SIDE * SIDE)
    data = head + inner + directory(tags, 0) + struct.pack("<I", START) * count
    with pytest.raises(LimitError, match=f"at most {MAX_PAGES} SubIFDs in a page, got {count}; save the page to be"):
        opened(data)


@pytest.mark.parametrize("tag", [258, 273, 279, 330, 339], ids=str)
def test_long_tags_are_not_read(tag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a tag of more numbers than may be read is refused before they become objects in memory."""
    monkeypatch.setattr(tiff, "MAX_TAGS_BYTES", 1 << 20)
    count = 1 << 22
    data = head_of(TAGS | {tag: (count, START + len(directory(TAGS | {tag: 0}, 0)))}) + bytes(4 * count)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match="expected at most 1 MiB of directories and tags, got more; save"):
            opened(data)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(data)
    finally:
        tracemalloc.stop()


def head_of(tags: Mapping[int, int | tuple[int, int]]) -> bytes:
    """The start of a file of one page: its header, pixels and directory."""
    return struct.pack("<4sI", b"II*\0", START) + bytes(SIDE * SIDE) + directory(tags, 0)
