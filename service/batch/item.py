"""The scoring of one image: read → planned → memory → scored → row and grid."""

import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fullconv.answer import Answer
from fullconv.base import BaseScorer
from fullconv.command.outputs import mask_path
from fullconv.command.writing import OutputWriter
from fullconv.common.files import OutputError
from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
from fullconv.options import Options
from fullconv.remote.client import Client
from fullconv.stream import ScoreStream
from service.batch.budget import MemoryBudget
from service.batch.reading import ReadError, ReadImage, read_image
from service.batch.records import Records, Row, failed_row
from service.batch.retries import retry
from service.batch.stop import Stop, StoppedError
from service.batch.stores import Store
from service.batch.urls import is_url
from service.batch.work import Work

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


@dataclass(frozen=True)
class Scored:
    """What became of an image."""

    row: Row
    times: Times

    @property
    def failed(self) -> bool:
        """Whether the image has no scores."""
        return "error" in self.row


@dataclass(frozen=True)
class ItemScorer:
    """Scores images one by one; may be used by several threads."""

    scorer: BaseScorer
    work: Work
    writer: OutputWriter
    store: Store
    records: Records
    budget: MemoryBudget
    stop: Stop

    def score(self, path: str, raw: str, size: int | None, grid: str) -> Scored:
        """Score an image; an image that cannot be scored has a row with its error.

        Args:
            path: The name of the image in the results.
            raw: Its path or URL, as the system knows it.
            size: Bytes of its file; None: not known.
            grid: The place of its grid below the folder of grids, without suffix.

        Raises RequestError and OutputError, which concern all images, and StoppedError.
        """
        began = time.monotonic()
        row: Row = {"path": path, "bytes": size}
        times, location = Times(), raw if is_url(raw) else str(Path(self.work.folder) / raw)
        try:
            with read_image(location, size, self.stop.pause) as read:
                row |= {"bytes": read.size, "sha256": read.sha256}
                answer, written = self._tried(read, Path(location), grid)
                facts = self.records.row_of(answer) | self._grid_column(grid)
        except (RequestError, OutputError, StoppedError):
            raise
        except Exception as error:  # a bug that one image causes must not end a job of a million
            message = _message_of(error).replace(location, path)  # the same, wherever the image was scored
            return Scored(row | failed_row(message, kind_of(error)), times)
        times = Times(
            read=read.seconds,
            decode=answer.timing.decode_ms / 1e3,
            compute=answer.timing.compute_ms / 1e3,
            write=written,
            total=time.monotonic() - began,
            pixels=answer.image.width * answer.image.height,
        )
        return Scored(row | facts, times)

    def _grid_column(self, grid: str) -> Row:
        return {"grid": self._place(grid)} if self.work.grid_suffix else {}

    def _place(self, grid: str) -> str:
        return f"{GRIDS}/{grid}{self.work.grid_suffix}"

    def _tried(self, read: ReadImage, location: Path, grid: str) -> tuple[Answer, float]:
        """Score an image, again while servers are away; returns the answer, and the seconds of writing."""
        work = partial(self._scored, read, location, grid)
        return retry(work, self.stop.pause) if isinstance(self.scorer, Client) else work()

    def _scored(self, read: ReadImage, location: Path, grid: str) -> tuple[Answer, float]:
        """Score an image and write its grid; returns the answer, and the seconds of writing."""
        work, options = self.work, self._options_of(read, location)
        if isinstance(self.scorer, Client) and read.data is not None and not self.work.grid_suffix:
            return self.scorer.score(read.image, model=work.model, version=work.version, **options), 0.0
        with (
            self.scorer.score_large(
                read.image, model=work.model, version=work.version, progress=self._check, **options
            ) as stream,
            self.stop.closing(stream.close),
            self._memory_of(stream, read),
        ):
            return self._taken(stream, grid)

    def _memory_of(self, stream: ScoreStream, read: ReadImage) -> AbstractContextManager[None]:
        """Return the claim of an image's memory. A server admits requests by its own memory."""
        planned = 0.0 if isinstance(self.scorer, Client) else stream.planned.plan.bytes
        return self.budget.claim(read.held_bytes + planned, self.stop.check)

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

    def _options_of(self, read: ReadImage, location: Path) -> Options:
        """Return the options of one image: with its own mask and region, and what its grid needs."""
        work = self.work
        options: Options = {**work.options, **self.writer.needed_options()}
        if work.mask is not None:
            options["mask"] = work.mask if work.mask == "otsu" else Path(work.folder) / mask_path(work.mask, location)
        if work.map_region is not None:
            options["roi"] = work.map_region.pixels(read.path, work.options.get("page", 0))
        return options


KINDS = {ReadError: "read", ImageError: "image", UnavailableError: "unavailable"}
"""The kind of each error, the more special first. Other errors are bugs."""


def kind_of(error: Exception) -> str:
    """Return the kind of an error, for the column `error_kind`."""
    return next((kind for known, kind in KINDS.items() if isinstance(error, known)), "bug")


def _message_of(error: Exception) -> str:
    return str(error) if isinstance(error, ScoringError) else f"a bug in fullconv: {error!r}"
