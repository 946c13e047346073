"""Sends one large image in parts, and receives its plan, progress, rows of the grid and summary."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import grpc

from fullconv.decode import rows_of
from fullconv.encode import large_image, little_endian
from fullconv.errors import ScoringError, UnavailableError
from fullconv.grid import GridRows
from fullconv.images import ArraySource, EncodedSource, FileSource, ImageSource
from fullconv.protos import scoring_pb2
from fullconv.remote import validation
from fullconv.remote.expectations import MalformedAnswerError, parsed
from fullconv.transport import ProgressCallback

PART_BYTES = 1 << 20
"""Size of the parts of a file, or of rows of pixels."""


@dataclass
class UploadParts:
    """The messages of one ScoreLarge call. Each is made when the server has room for it."""

    request: scoring_pb2.ScoreRequest
    source: ImageSource
    progress: ProgressCallback
    error: Exception | None = field(init=False, default=None)
    """The exception that ended the iteration, if reading the image failed."""

    def __iter__(self) -> Iterator[scoring_pb2.ScoreLargeRequest]:
        try:
            yield scoring_pb2.ScoreLargeRequest(start=large_image(self.request, self.source))
            for data in self._parts():
                yield scoring_pb2.ScoreLargeRequest(data=data)
        except Exception as error:
            self.error = error
            raise

    def _parts(self) -> Iterator[bytes]:
        match self.source:
            case FileSource():
                with self.source.opened() as file:
                    yield from self._file_parts(file, _size(self.source.path))
            case EncodedSource():
                yield from self._file_parts(BytesIO(self.source.data), len(self.source.data))
            case ArraySource():
                yield from _row_parts(self.source)

    def _file_parts(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        sent = 0
        while part := file.read(PART_BYTES):
            yield part
            sent += len(part)
            self.progress("sending", sent, max(sent, size))


def _size(path: Path) -> int:
    return path.stat().st_size


def _row_parts(source: ArraySource) -> Iterator[bytes]:
    """Yield the bytes of whole rows; each chunk of a chunked array is read once."""
    height, width, channels = source.shape
    each = max(1, PART_BYTES // (width * channels * source.dtype.itemsize))
    block = max(each, source.chunk_rows)
    for first in range(0, height, block):
        rows = source.read(first, min(first + block, height))
        for start in range(0, len(rows), each):
            yield little_endian(rows[start : start + each])


class LargeAnswerReader:
    """Reads the parts of an answer of ScoreLarge in their order: the start, then progress and rows, then the summary.

    Raises MalformedAnswerError for a part that does not fit the request or the parts before it.
    """

    def __init__(self, first: scoring_pb2.ScoreLargeResponse | None, parts: UploadParts) -> None:
        """Read the first part, the start, of the answer to what `parts` sends."""
        self.parts = parts
        """What is sent; it has the request, and takes the server's progress."""
        self._next_row = self._unscored = self._tiles = 0
        self.start = self._content(first, "start").start
        """What is known from the beginning."""
        self.summary: scoring_pb2.ScoreResponse | None = None
        """The whole answer but the grid, at the end."""
        validation.check_start(self.start, parts.request, parts.source)

    def read(self, part: scoring_pb2.ScoreLargeResponse | None) -> GridRows | None:
        """Read the next part, and return its rows of the grid if it has some."""
        if self.summary is not None:
            raise MalformedAnswerError("part", "the end of the stream after the summary", "another part")
        part = self._content(part, "progress", "rows", "summary")
        match part.WhichOneof("part"):
            case "progress":
                self._read_progress(part.progress)
            case "rows":
                return self._read_rows(part.rows)
            case "summary":
                self._read_summary(part.summary)
        return None

    def _content(self, part: scoring_pb2.ScoreLargeResponse | None, *expected: str) -> scoring_pb2.ScoreLargeResponse:
        part = parsed(part)
        kind = part.WhichOneof("part")
        if kind not in expected:
            raise MalformedAnswerError("part", " or ".join(expected), kind)
        return part

    def _read_progress(self, progress: scoring_pb2.Progress) -> None:
        validation.check_progress(progress, self.start, self._tiles)
        self._tiles = progress.tiles
        self.parts.progress("scoring", progress.tiles, progress.of)

    def _read_rows(self, rows: scoring_pb2.GridRows) -> GridRows:
        self._unscored += validation.check_rows(rows, self.start, self._next_row, self.parts.request)
        self._next_row += rows.count
        return rows_of(rows, self.start.grid)

    def _read_summary(self, summary: scoring_pb2.ScoreResponse) -> None:
        validation.check_summary(summary, self.start, self.parts.request)
        if self.parts.request.options.grid:
            validation.check_complete(summary, self._next_row, self._unscored)
        self.summary = summary


class RemoteStream:
    """One large image that a server scores."""

    def __init__(
        self,
        call: grpc.Call,
        reader: LargeAnswerReader,
        error_of: Callable[[grpc.RpcError], ScoringError],
    ) -> None:
        """Take the call, the reader of its answer, and a function that translates the call's errors."""
        self._call, self._reader, self._error_of = call, reader, error_of
        self.start = reader.start

    def rows(self) -> Iterator[GridRows]:
        """Take the rows of the grid from top to bottom, if a grid was requested; raises ScoringError."""
        try:
            for part in self._call:
                rows = self._reader.read(part)
                if rows is not None:
                    yield rows
        except grpc.RpcError as error:
            self._call.cancel()
            raise self._reader.parts.error or self._error_of(error) from None
        self.summary()

    def summary(self) -> scoring_pb2.ScoreResponse:
        """Return the averages, after the last rows; raises UnavailableError if the server has not sent them."""
        if self._reader.summary is None:
            raise summary_missing()
        return self._reader.summary

    def close(self) -> None:
        """Cancel the call; the server stops too."""
        self._call.cancel()


def summary_missing() -> UnavailableError:
    """Make the error for a server that ends a stream with OK before it has sent the summary."""
    return UnavailableError("the server ended the stream before it sent the summary")
