"""The scoring of one image: read → planned → memory → scored → row and grid.

A large image may be divided: its sections are scored apart, and then merged (`section_scorer`).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from fullconv.answer import Answer
from fullconv.base import BaseScorer
from fullconv.command.outputs import mask_path
from fullconv.command.writing import OutputWriter
from fullconv.common.files import OutputError
from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
from fullconv.options import Options
from fullconv.remote.client import Client
from fullconv.stream import ScoreStream
from service.batch.budget import Budget
from service.batch.reading import Copies, ReadError, ReadImage, read_image
from service.batch.records import Records, Row, failed_row
from service.batch.retries import retry
from service.batch.section_scorer import Division, SectionScorer
from service.batch.stop import Stop, StoppedError
from service.batch.stores import Store
from service.batch.urls import is_url
from service.batch.work import Work
from service.scoring.sections import is_large

GRIDS = "grids"


@dataclass(frozen=True)
class Times:
    """Seconds of an image, by stage, and its pixels."""

    read: float = 0.0
    decode: float = 0.0
    compute: float = 0.0
    write: float = 0.0
    """Seconds in which rows of the grid were written."""
    total: float = 0.0
    """Seconds from the start of reading until the image was scored and its grid written."""
    pixels: int = 0

    @staticmethod
    def total_of(parts: Sequence["Times"]) -> "Times":
        """Return the sums over the parts of one image."""
        return Times(**{name: sum(getattr(part, name) for part in parts) for name in Times.__dataclass_fields__})


@dataclass(frozen=True)
class Item:
    """An image of a job."""

    path: str
    """Its name in the results."""
    raw: str
    """Its path or URL, as the system knows it."""
    size: int | None
    """Bytes of its file; None: not known."""
    grid: str
    """The place of its grid below the folder of grids, without suffix."""


@dataclass(frozen=True)
class Scored:
    """What became of an image."""

    row: Row
    times: Times
    why_whole: str = ""
    """Why a large image was not divided; empty if it was divided, or is not large."""

    @property
    def failed(self) -> bool:
        """Whether the image has no scores."""
        return "error" in self.row


@dataclass(frozen=True)
class Divided:
    """An image that is to be scored in sections."""

    sections: int
    """Number of sections."""


@dataclass(frozen=True)
class ScoredSection:
    """What became of a section of an image."""

    times: Times
    failure: Scored | None = None
    """The image with its error, if the section has no scores."""


@dataclass(frozen=True)
class _Attempt:
    """An attempt to score an image, or a part of it."""

    item: Item
    location: str
    """The path or URL of the image."""
    began: float
    """Monotonic time in seconds."""
    read: ReadImage

    @property
    def facts(self) -> Row:
        """The columns that are known before the image is scored."""
        return {"path": self.item.path, "bytes": self.read.size, "sha256": self.read.sha256}


Result = TypeVar("Result")


@dataclass(frozen=True)
class ItemScorer:
    """Scores images one by one; may be used by several threads.

    An image that cannot be scored has a row with its error. The methods raise RequestError and OutputError, which
    concern all images, and StoppedError.
    """

    scorer: BaseScorer
    work: Work
    writer: OutputWriter
    store: Store
    records: Records
    budget: Budget
    copies: Copies
    stop: Stop
    sections: SectionScorer | None = None
    """Scores large images in sections. Default: None, every image is scored as a whole."""

    def score(self, item: Item) -> Scored | Divided:
        """Score an image, unless it is to be scored in sections."""
        return self._attempted(item, self._score)

    def score_section(self, item: Item, number: int) -> ScoredSection:
        """Score a section of a divided image."""
        done = self._attempted(item, partial(self._score_section, number))
        return ScoredSection(Times(), done) if isinstance(done, Scored) else done

    def merge(self, item: Item, sections: Sequence[ScoredSection]) -> Scored:
        """Return a divided image, whose sections were scored, and write its grid."""
        failures = [section.failure for section in sections if section.failure is not None]
        scored = failures[0] if failures else self._attempted(item, self._merge)
        self._section_scorer.remove(item.grid)
        return replace(scored, times=Times.total_of([*(section.times for section in sections), scored.times]))

    @property
    def _section_scorer(self) -> SectionScorer:
        assert self.sections is not None  # noqa: S101 (without it no image is divided)
        return self.sections

    def _attempted(self, item: Item, work: Callable[[_Attempt], Result]) -> Result | Scored:
        """Do work with an image; returns the image with its error if that fails."""
        began = time.monotonic()
        facts: Row = {"path": item.path, "bytes": item.size}
        location = item.raw if is_url(item.raw) else str(Path(self.work.folder) / item.raw)
        try:
            with read_image(location, item.size, self.copies) as read:
                attempt = _Attempt(item, location, began, read)
                facts |= attempt.facts
                done = work(attempt)
                read.check_unchanged()
                return done
        except (RequestError, OutputError, StoppedError):
            raise
        except Exception as error:  # a bug that one image causes must not end a job of a million
            message = _message_of(error).replace(location, item.path)  # the same, wherever the image was scored
            return Scored(facts | failed_row(message, kind_of(error)), Times())

    def _score(self, attempt: _Attempt) -> Scored | Divided:
        """Score an image, again while servers are away."""
        work = partial(self._score_once, attempt)
        return retry(work, self.stop.pause) if isinstance(self.scorer, Client) else work()

    def _score_once(self, attempt: _Attempt) -> Scored | Divided:
        work, read, options = self.work, attempt.read, self._options_of(attempt)
        if isinstance(self.scorer, Client) and read.data is not None and not work.grid_suffix:
            answer = self.scorer.score(read.image, model=work.model, version=work.version, **options)
            return self._scored(attempt, answer, 0.0)
        with (
            self.scorer.score_large(
                read.image, model=work.model, version=work.version, progress=self._check, **options
            ) as stream,
            self.stop.closing(stream.close),
        ):
            division = self._division(attempt, stream.planned, options)
            if division.sections > 1:
                return Divided(division.sections)
            with self._memory_of(stream):
                scored = self._scored(attempt, *self._taken(stream, attempt.item.grid))
        return replace(scored, why_whole=division.why_whole)

    def _division(self, attempt: _Attempt, planned: Answer, options: Options) -> Division:
        """Return whether an image is divided; raises ScoringError."""
        if self.sections is None or not is_large(planned.image.width * planned.image.height):
            return Division()
        if is_url(attempt.location) or attempt.read.size is None:  # a bucket or a folder
            return Division(why_whole="each section would have to copy its file, or to read it again")
        return self.sections.division(attempt.read, options)

    def _score_section(self, number: int, attempt: _Attempt) -> ScoredSection:
        item, options = attempt.item, self._options_of(attempt)
        timing = self._section_scorer.score(attempt.read, options, item.grid, number)
        total = time.monotonic() - attempt.began
        return ScoredSection(Times(attempt.read.seconds, timing.decode, timing.compute, total=total))

    def _merge(self, attempt: _Attempt) -> Scored:
        item, options = attempt.item, self._options_of(attempt)
        with self._section_scorer.merged(attempt.read, options, item.grid) as stream:
            return self._scored(attempt, *self._taken(stream, item.grid))

    def _scored(self, attempt: _Attempt, answer: Answer, written: float) -> Scored:
        """Return a scored image; `written` are the seconds in which its grid was written."""
        times = Times(
            read=attempt.read.seconds,
            decode=answer.timing.decode_ms / 1e3,
            compute=answer.timing.compute_ms / 1e3,
            write=written,
            total=time.monotonic() - attempt.began,
            pixels=answer.image.width * answer.image.height,
        )
        row = attempt.facts | self.records.row_of(answer) | self._grid_column(attempt.item.grid)
        return Scored(row, times)

    def _grid_column(self, grid: str) -> Row:
        return {"grid": self._place(grid)} if self.work.grid_suffix else {}

    def _place(self, grid: str) -> str:
        return f"{GRIDS}/{grid}{self.work.grid_suffix}"

    def _memory_of(self, stream: ScoreStream) -> AbstractContextManager[None]:
        """Return the claim of an image's memory. A server admits requests by its own memory."""
        planned = 0.0 if isinstance(self.scorer, Client) else stream.planned.plan.bytes
        return self.budget.claim(planned, self.stop.check)

    def _taken(self, stream: ScoreStream, grid: str) -> tuple[Answer, float]:
        """Take the rows of a grid, and write them if grids are written."""
        seconds = 0.0
        with ExitStack() as files:
            sinks = []
            if self.work.grid_suffix:
                path = files.enter_context(self.store.output(self._place(grid)))
                sinks.append(files.enter_context(self.writer.grid(path, stream.planned)))
            for rows in stream.rows():
                began = time.monotonic()
                for sink in sinks:
                    sink(rows)
                seconds += time.monotonic() - began
                self.stop.check()
            answer = stream.result()
            began = time.monotonic()
        return self.writer.chosen(answer), seconds + time.monotonic() - began

    def _check(self, *_: object) -> None:
        self.stop.check()

    def _options_of(self, attempt: _Attempt) -> Options:
        """Return the options of one image: with its own mask and region, and what its grid needs."""
        work = self.work
        options: Options = {**work.options, **self.writer.needed_options()}
        if work.mask is not None:
            file = mask_path(work.mask, Path(attempt.location))
            options["mask"] = work.mask if work.mask == "otsu" else Path(work.folder) / file
        if work.map_region is not None:
            options["roi"] = work.map_region.pixels(attempt.read.path, work.options.get("page", 0))
        return options


KINDS = {ReadError: "read", ImageError: "image", UnavailableError: "unavailable"}
"""The kind of each error, the more special first. Other errors are bugs."""


def kind_of(error: Exception) -> str:
    """Return the kind of an error, for the column `error_kind`."""
    return next((kind for known, kind in KINDS.items() if isinstance(error, known)), "bug")


def _message_of(error: Exception) -> str:
    return str(error) if isinstance(error, ScoringError) else f"a bug in fullconv: {error!r}"
