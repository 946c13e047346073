"""One large image on its way: its parts out, the plan, progress, the grid's rows and the summary in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import numpy as np
from numpy.typing import NDArray

from fullconv.answer import Answer, Scores, scores_of
from fullconv.errors import ImageError, UnavailableError
from fullconv.images import Pixels, chunk_rows, read_rows
from fullconv.protos import scoring_pb2

PART = 1 << 20
"""Bytes of a file, or of rows, that are sent at once."""


Watch = Callable[[str, int, int], None]
"""Told what goes on, "sending" or "scoring", how much of it is done, and how much there is."""


def unwatched(_what: str, _done: int, _of: int) -> None:
    """Nobody watches."""


@dataclass
class Parts:
    """What is sent, part by part, as the server takes it; `error` is what went wrong here."""

    start: scoring_pb2.LargeImage
    image: Path | Pixels
    watch: Watch
    error: Exception | None = field(init=False, default=None)

    def __iter__(self) -> Iterator[scoring_pb2.ScoreLargeRequest]:
        yield scoring_pb2.ScoreLargeRequest(start=self.start)
        try:
            for data in self._parts():
                yield scoring_pb2.ScoreLargeRequest(data=data)
        except Exception as error:
            self.error = error
            raise

    def _parts(self) -> Iterator[bytes]:
        if not isinstance(self.image, Path):
            yield from _row_parts(self.image, self.start.name or "image")
            return
        sent = 0
        try:
            size = self.image.stat().st_size
            for data in _file_parts(self.image):
                yield data
                sent += len(data)
                self.watch("sending", sent, max(sent, size))
        except OSError as error:
            raise ImageError(f"{self.image}: cannot be read: {error.strerror or error}") from None


def _file_parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART):
            yield part


def _row_parts(pixels: Pixels, name: str) -> Iterator[bytes]:
    """Whole rows; of a chunked array each chunk is read once."""
    row = int(np.prod(pixels.shape[1:])) * np.dtype(pixels.dtype).itemsize
    each, chunk = max(1, PART // row), chunk_rows(pixels)
    for first in range(0, pixels.shape[0], max(each, chunk)):
        rows = read_rows(pixels, first, first + max(each, chunk), name)
        for start in range(0, len(rows), each):
            part = rows[start : start + each]
            yield np.ascontiguousarray(part, part.dtype.newbyteorder("<")).tobytes()


class Rows:
    """What the parts of an answer say, one after the other."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.response = scoring_pb2.ScoreResponse()
        """What was known from the beginning."""
        self.summary: scoring_pb2.ScoreResponse | None = None
        """The whole answer, at the end."""

    def take(self, part: scoring_pb2.ScoreLargeResponse) -> tuple[int, Scores, NDArray[np.uint32] | None] | None:
        """A part; its rows, if it has some: (first row, scores (rows, cols, depth), positions or None)."""
        match part.WhichOneof("part"):
            case "start":
                self.response = part.start
            case "progress":
                self._watch("scoring", part.progress.tiles, part.progress.of)
            case "summary":
                self.summary = part.summary
            case "rows":
                shape = (part.rows.count, self.response.grid.cols, self.response.grid.depth)
                scores = scores_of(part.rows.scores, self.response.grid).reshape(shape)
                found = np.frombuffer(part.rows.positions, "<u4").astype(np.uint32, copy=False)
                return part.rows.first, scores, found.reshape(shape) if part.rows.positions else None
        return None


class LargeRun:
    """Take `bands`, then `answer`; leave it early by closing it, or by leaving its `with` block.

    `response` is known from the beginning, but for averages and times: image, grid, mode and plan.
    """

    def __init__(
        self,
        call: grpc.Call,
        first: scoring_pb2.ScoreLargeResponse,
        parts: Parts,
        error: Callable[[grpc.RpcError], Exception],
    ) -> None:
        self._call, self._parts, self._error = call, parts, error
        self._rows = Rows(parts.watch)
        self._rows.take(first)
        self.response: scoring_pb2.ScoreResponse = first.start

    def bands(self) -> Iterator[tuple[int, Scores]]:
        """(first row, scores (rows, cols, depth)) from top to bottom, if a grid was asked for."""
        for first, scores, _ in self.rows():
            yield first, scores

    def rows(self) -> Iterator[tuple[int, Scores, NDArray[np.uint32] | None]]:
        """(first row, scores (rows, cols, depth), positions in the answer's classes or None) from top to bottom."""
        try:
            for part in self._call:
                rows = self._rows.take(part)
                if rows is not None:
                    yield rows
        except grpc.RpcError as error:
            raise self._parts.error or self._error(error) from None
        if self._rows.summary is None:
            raise summary_missing()

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages; rows that were not taken are passed over."""
        while self._rows.summary is None:
            for _ in self.rows():
                pass
        return self._rows.summary

    def result(self) -> Answer:
        """The averages as an answer."""
        return Answer(self.answer())

    def close(self) -> None:
        """Stop here; the server stops too."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def summary_missing() -> UnavailableError:
    """Make the error for a server that ends a stream with OK before it has sent the summary."""
    return UnavailableError("the server ended the answer before its summary")
