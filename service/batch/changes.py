"""Images whose files may have changed since the job has listed them, and whether their finished rows still hold.

An image is suspect if the size of its file, its time or its ETag is another one, or if its path is relative and the
command runs in another folder. A finished row holds if its hash is that of the file now. With `retry_failed`, a row
without scores need not hold, because the image is scored again. An image without a finished row is scored as it is.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fullconv.common.text import counted, printable
from service.batch.listing import BYTES, MODIFIED, PATH, Listing
from service.batch.reading import WHOLE_BYTES, Copies, ReadError, read_image
from service.batch.stop import StoppedError
from service.batch.urls import is_url

READERS = 16
"""Threads that read images and finished parts."""
POSITION = "position"
COLUMNS = ["path", "bytes", "sha256", "error"]


class JobError(Exception):
    """The place for results belongs to another job, or holds other files."""


@dataclass(frozen=True)
class Comparison:
    """How a run compares images with the results of earlier runs."""

    folder: str
    """The folder to which paths are relative now."""
    copies: Copies
    retry_failed: bool = False
    announce: Callable[[str], object] = lambda _: None
    """Takes the reason for a long comparison, before this begins."""


@dataclass(frozen=True)
class Suspect:
    """An image that may have changed."""

    path: str
    location: str
    """Its path or URL now."""
    size: int | None
    """Bytes of its file now."""
    then: str | None
    """Its time or ETag when the job has listed it."""
    now: str | None

    def error(self, got: str, way_out: str = "use another OUT") -> JobError:
        """Return the error of an image whose row does not hold."""
        times = f" ({self.now}, recorded {self.then})" if self.now != self.then else ""
        return JobError(
            f"OUT: expected the images of the job there, got {printable(self.path)!r} {got}{times}: {way_out}"
        )


def suspects(recorded: pa.Table, images: Listing, folder: str, comparison: Comparison) -> dict[int, Suspect]:
    """Return the images that may have changed, by their position in the recorded table.

    `folder` is the folder to which paths were relative when the job began.
    """
    positions = pc.index_in(images.table[PATH], value_set=recorded[PATH].combine_chunks())
    own = images.table.select([PATH, BYTES, MODIFIED])
    known = own.append_column(POSITION, positions).filter(pc.is_valid(positions))
    then = recorded.take(known[POSITION])
    is_suspect = pc.or_(_differs(then, known, BYTES), _differs(then, known, MODIFIED))
    if folder != comparison.folder:
        is_suspect = pc.or_(is_suspect, _is_elsewhere(known))
    rows = known.filter(is_suspect).to_pylist()
    found = {}
    for row, time in zip(rows, then.filter(is_suspect)[MODIFIED].to_pylist(), strict=True):
        location = _location(images.raw.get(row[PATH], row[PATH]), comparison.folder)
        found[row[POSITION]] = Suspect(row[PATH], location, row[BYTES], time, row[MODIFIED])
    return found


def _differs(then: pa.Table, now: pa.Table, name: str) -> pa.ChunkedArray:
    """Return where a column differs; what is not known does not differ."""
    return pc.fill_null(pc.not_equal(then[name], now[name]), fill_value=False)


def _is_elsewhere(images: pa.Table) -> pa.ChunkedArray:
    """Return which images the same path means in another folder, if the results can have their hashes."""
    is_relative = pa.array([not is_url(path) and not PurePath(path).is_absolute() for path in images[PATH].to_pylist()])
    has_hash = pc.fill_null(pc.less_equal(images[BYTES], WHOLE_BYTES), fill_value=False)
    return pc.and_(has_hash, pa.chunked_array([is_relative]))


def _location(raw: str, folder: str) -> str:
    return raw if is_url(raw) else str(Path(folder) / raw)


def check_rows(
    found: Mapping[int, Suspect],
    starts: Sequence[int],
    finished: Collection[int],
    read: Callable[[int, list[str]], pa.Table],
    comparison: Comparison,
) -> None:
    """Raise JobError if the finished row of a suspect image does not hold; raises StoppedError if the job stops.

    `starts` are the positions of the first images of all parts, and `finished` the numbers of the finished parts, of
    which `read` returns columns.
    """
    by_part: dict[int, dict[str, Suspect]] = {}
    for position, suspect in found.items():
        number = bisect_right(starts, position) - 1
        if number in finished:
            by_part.setdefault(number, {})[suspect.path] = suspect
    if not by_part:
        return
    count = sum(map(len, by_part.values()))
    comparison.announce(f"{counted(count, 'image')} may have changed: comparing the content with the results")
    with ThreadPoolExecutor(READERS, thread_name_prefix="compared") as pool:
        for number, images in by_part.items():
            rows = [row for row in read(number, COLUMNS).to_pylist() if row["path"] in images]
            for _ in pool.map(lambda row, images=images: _check_row(row, images[row["path"]], comparison), rows):
                pass


def _check_row(row: Mapping[str, Any], suspect: Suspect, comparison: Comparison) -> None:
    """Raise JobError unless a finished row is that of the file now; raises StoppedError if the job stops."""
    if comparison.copies.stop.gently.is_set():
        raise StoppedError
    failed = row["error"] is not None
    if failed and comparison.retry_failed:
        return
    way_out = "score it again with --retry-failed, or use another OUT" if failed else "use another OUT"
    if suspect.size != row["bytes"]:
        raise suspect.error("in another size", way_out)
    if row["sha256"] is None and not failed:
        raise suspect.error(
            f"with another time, and the results have no hash of files of more than {WHOLE_BYTES >> 20} MiB",
            "if the file is the same, give it the recorded time (rsync -t copies times), otherwise use another OUT",
        )
    try:
        with read_image(suspect.location, suspect.size, comparison.copies) as read:
            digest = read.sha256
    except ReadError as error:
        raise JobError(f"OUT: expected the images of the job there: {error}") from None
    if digest != row["sha256"]:
        raise suspect.error("with other content", way_out)
