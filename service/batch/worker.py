"""A worker: scores the images of parts, and writes their files. Every engine runs this code.

    begin → sections of large images, by any worker → finish

A part's rows have the order of its images. Its times are written before its results, which make it finished. Only a
worker that can score sections divides large images.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from fullconv.base import BaseScorer
from fullconv.command.outputs import Outputs
from fullconv.command.writing import OutputWriter
from fullconv.common.probabilities import RAW
from fullconv.description import ModelDescription
from fullconv.errors import RequestError
from service.batch.budget import Budget
from service.batch.item import Divided, Item, ItemScorer, Scored, ScoredSection, Times
from service.batch.job import RESULTS, TIMING, Part, read_finished
from service.batch.listing import PATH
from service.batch.reading import Copies
from service.batch.records import Records, Row, make_records
from service.batch.section_scorer import SectionScorer
from service.batch.stop import Stop
from service.batch.stores import Store
from service.batch.work import Work
from service.local import LocalTransport

Observe = Callable[[Scored], None]
"""Takes each image when it is scored, in the thread that has scored it."""
Sections = Mapping[int, Sequence[ScoredSection]]
"""The sections of divided images, in their order, by the position of the image in its part."""
NO_SECTIONS: Sections = {}
FILES_SHARE = 0.125
"""Share of a worker's memory for files that are read as a whole. It is apart from that of plans, because a file is in
memory before its image's plan is known: with one budget, files could wait for each other's plans for ever."""
Value = TypeVar("Value")
Result = TypeVar("Result")


def ignore_image(_: Scored) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class PartReport:
    """What became of a part."""

    number: int
    images: int
    """Number of images that were scored now."""
    seconds: float
    host: str
    images_done: tuple[Scored, ...] = field(repr=False, default=())
    """The images that were scored now, without their averages."""


@dataclass(frozen=True)
class BegunPart:
    """A part whose images are scored, except for those that are divided. It can be sent to other machines."""

    number: int
    images: tuple[Scored | Divided | Row, ...]
    """What became of each image. A row belongs to an image that was scored before."""
    seconds: float

    @property
    def sections(self) -> dict[int, int]:
        """The number of sections of each divided image, by the position of the image in the part."""
        return {at: image.sections for at, image in enumerate(self.images) if isinstance(image, Divided)}


@dataclass(frozen=True)
class SectionReport:
    """What became of a section of a divided image."""

    number: int
    """Number of the part."""
    path: str
    section: int
    """Number of the section, counted from 0."""
    sections: int
    """Number of the image's sections."""
    seconds: float
    host: str
    process: int
    scored: ScoredSection = field(repr=False)


@dataclass(frozen=True)
class WorkerLimits:
    """What a worker may use of its machine."""

    threads: int
    """Number of images that are read, scored and written at the same time."""
    memory_bytes: float
    """Bytes for their plans together."""

    def __post_init__(self) -> None:
        """Raise ValueError unless there is a thread and some memory."""
        if self.threads < 1 or not self.memory_bytes > 0:
            raise ValueError(f"expected at least one thread and more than 0 bytes, got {self}")


@dataclass(frozen=True)
class Worker:
    """Scores parts with a scorer, in several threads. Parts may be scored at the same time."""

    items: ItemScorer
    threads: ThreadPoolExecutor
    count: int
    """Number of threads."""

    def run(self, part: Part, observe: Observe = ignore_image, *, retry_failed: bool = False) -> PartReport:
        """Score the images of a part, and write its files; raises RequestError, OutputError and StoppedError.

        With `retry_failed`, images that have scores in a finished part are not scored again.
        """
        return self.finish(part, self.begin(part, observe, retry_failed=retry_failed))

    def begin(self, part: Part, observe: Observe = ignore_image, *, retry_failed: bool = False) -> BegunPart:
        """Score the images of a part, except for those that are divided; raises the errors of `run`."""
        began = time.monotonic()
        kept = self._kept_rows(part) if retry_failed else [None] * part.images.table.num_rows
        pending = [position for position, row in enumerate(kept) if row is None]
        scored = iter(self._each(partial(self._score, observe), [part.item(position) for position in pending]))
        images = tuple(next(scored) if row is None else row for row in kept)
        return BegunPart(part.number, images, time.monotonic() - began)

    def score_section(self, part: Part, position: int, section: int, sections: int) -> SectionReport:
        """Score a section of the image at a position of a part; raises the errors of `run`."""
        began, item = time.monotonic(), part.item(position)
        (scored,) = self._each(partial(self.items.score_section, number=section), [item])
        seconds = time.monotonic() - began
        return SectionReport(
            part.number, item.path, section, sections, seconds, socket.gethostname(), os.getpid(), scored
        )

    def finish(self, part: Part, begun: BegunPart, sections: Sections = NO_SECTIONS) -> PartReport:
        """Merge the divided images of a part, and write its files; raises the errors of `run`.

        `sections` are the sections of each divided image, by its position in the part.
        """
        began = time.monotonic()
        merged = iter(self._each(lambda at: self.items.merge(part.item(at), sections[at]), [*begun.sections]))
        images = [next(merged) if isinstance(image, Divided) else image for image in begun.images]
        scored = [image if isinstance(image, Scored) else None for image in images]
        rows = [image.row if isinstance(image, Scored) else image for image in images]
        seconds = begun.seconds + time.monotonic() - began
        self._write(part, rows, scored, seconds)
        done = tuple(_without_averages(each) for each in scored if each is not None)
        return PartReport(part.number, len(done), seconds, socket.gethostname(), done)

    def _score(self, observe: Observe, item: Item) -> Scored | Divided:
        scored = self.items.score(item)
        if isinstance(scored, Scored):
            observe(scored)
        return scored

    def _each(self, work: Callable[[Value], Result], values: Sequence[Value]) -> list[Result]:
        """Do work with each value, in the threads of this worker; if it fails, all work is given up."""
        futures = [self.threads.submit(work, value) for value in values]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self.items.stop.now()
            wait([future for future in futures if not future.cancel()])  # until their incomplete files are removed
            raise

    def _kept_rows(self, part: Part) -> list[Row | None]:
        """Return the rows of a part; None for images without scores, and for all images of an unfinished part."""
        if self.items.store.read(f"{RESULTS}/{part.file}") is None:
            return [None] * part.images.table.num_rows
        table = read_finished(self.items.store, part.number)
        return [row if row["error"] is None else None for row in table.to_pylist()]

    def _times(self, part: Part, scored: Sequence[Scored | None], seconds: float) -> pa.Table:
        """Return the times of the images, each when it was last scored."""
        times, before = _times_table(part, scored, seconds), self.items.store.read(f"{TIMING}/{part.file}")
        if before is None or None not in scored:
            return times
        try:
            kept = parquet.read_table(pa.BufferReader(before))
        except pa.ArrowException:  # a damaged file: the earlier times are lost
            return times
        is_replaced = pc.is_in(kept["path"], value_set=times["path"].combine_chunks())
        return pa.concat_tables([kept.filter(pc.invert(is_replaced)), times])

    def _write(self, part: Part, rows: Sequence[Any], scored: Sequence[Scored | None], seconds: float) -> None:
        store, records = self.items.store, self.items.records
        store.write(f"{TIMING}/{part.file}", _parquet(self._times(part, scored, seconds)))
        store.write(f"{RESULTS}/{part.file}", records.serialize(rows, part.images.carried))


def _parquet(table: pa.Table) -> bytes:
    file = BytesIO()
    parquet.write_table(table, file, compression="zstd")
    return file.getvalue()


def make_worker(
    work: Work, scorer: BaseScorer, store: Store, carried: pa.Schema, stop: Stop, limits: WorkerLimits
) -> Worker:
    """Return a worker; raises RequestError if the model or an option is invalid, ImageError for carried columns."""
    model = scorer.model(work.model, work.version)
    items = ItemScorer(
        scorer=scorer,
        work=work,
        writer=_writer(work, model),
        store=store,
        records=records_of(work, model, carried),
        budget=Budget((1 - FILES_SHARE) * limits.memory_bytes),
        copies=Copies(stop, memory=Budget(FILES_SHARE * limits.memory_bytes)),
        stop=stop,
    )
    return Worker(items, ThreadPoolExecutor(limits.threads, thread_name_prefix="image"), limits.threads)


def with_sections(worker: Worker, transport: LocalTransport) -> Worker:
    """Return the worker, which now divides large images, and scores their sections through a transport."""
    items = worker.items
    sections = SectionScorer(transport, items.work, items.store, items.budget, items.stop)
    return replace(worker, items=replace(items, sections=sections))


def records_of(work: Work, model: ModelDescription, carried: pa.Schema) -> Records:
    """Return the columns of a job's results; raises RequestError, and ImageError for carried columns."""
    options = work.options
    names = [str(name) for name in options.get("classes", ())]
    if options.get("average") == "probabilities" and model.output.kind == RAW:
        raise RequestError(f"average: expected scores, got probabilities, which model {work.model!r} does not have")
    return make_records(model, names, options.get("average", "scores"), carried, wide=work.wide)


def _writer(work: Work, model: ModelDescription) -> OutputWriter:
    grids = (f"grid{work.grid_suffix}",) if work.grids else ()
    return OutputWriter(Outputs(grids=grids, files=work.files), work.options, work.version, lambda _: model)


def _times_table(part: Part, scored: Sequence[Scored | None], seconds: float) -> pa.Table:
    """Return the times of the images that were scored now."""
    known = [(at, each.times) for at, each in enumerate(scored) if each is not None]
    times = {name: [getattr(each, name) for _, each in known] for name in Times.__dataclass_fields__}
    columns = {
        "path": part.images.table[PATH].take(pa.array([at for at, _ in known], pa.int64())),
        "pixels": pa.array(times.pop("pixels"), pa.int64()),
        **{f"{name}_seconds": pa.array(values, pa.float64()) for name, values in times.items()},
        "host": pa.array([socket.gethostname()] * len(known), pa.string()),
        "part_seconds": pa.array([seconds] * len(known), pa.float64()),
    }
    return pa.table(columns)


def _without_averages(scored: Scored) -> Scored:
    """Return what the summary needs of an image."""
    kept = ("path", "error", "error_kind")
    return replace(scored, row={name: scored.row[name] for name in kept if name in scored.row})
