"""Sends one large image in parts, and receives its plan, progress, rows of the grid and summary."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import grpc

from fullconv.decode import LargeResponseReader
from fullconv.encode import large_image, little_endian
from fullconv.errors import ScoringError, UnavailableError
from fullconv.grid import GridRows
from fullconv.images import ArraySource, EncodedSource, FileSource, ImageSource
from fullconv.protos import scoring_pb2
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


class RemoteStream:
    """One large image that a server scores."""

    def __init__(
        self,
        call: grpc.Call,
        first: scoring_pb2.ScoreLargeResponse,
        parts: UploadParts,
        error_of: Callable[[grpc.RpcError], ScoringError],
    ) -> None:
        """Take the call, its first message, and a function that translates the call's errors."""
        self._call, self._parts, self._error_of = call, parts, error_of
        self._reader = LargeResponseReader(parts.progress)
        self._reader.read(first)
        self.start = self._reader.start

    def rows(self) -> Iterator[GridRows]:
        """Take the rows of the grid from top to bottom, if a grid was requested; raises ScoringError."""
        try:
            for part in self._call:
                rows = self._reader.read(part)
                if rows is not None:
                    yield rows
        except grpc.RpcError as error:
            raise self._parts.error or self._error_of(error) from None
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
