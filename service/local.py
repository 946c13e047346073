"""Scoring in this process: the transport behind `fullconv.Scorer`, which loads this module."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fullconv.common.names import PrecisionName, ProviderName
from fullconv.errors import KINDS, RequestError, ScoringError, UnavailableError
from fullconv.grid import GridRows
from fullconv.images import ArraySource, EncodedSource, FileSource, ImageSource
from fullconv.options import check_timeout
from fullconv.protos import scoring_pb2
from fullconv.transport import ManyItem, ProgressCallback, WholeAnswer, ignore_progress
from service import decode, encode, errors
from service.engine.engine import Engine
from service.engine.executables import Threads
from service.engine.loader import LoadOptions
from service.engine.registry import Registry
from service.engine.requested_backend import MissingBackendError, RequestedBackend
from service.engine.scheduler import Flow, Scheduler
from service.images.arrays import open_array
from service.images.decoding import Decoding, UnsharedDecoding
from service.images.encoded import open_bytes
from service.images.files import open_path
from service.images.picture import PageSelection, Picture
from service.images.pixels import SampleArray
from service.limits import MIB, Tuning
from service.reasons import message_of, reason_of
from service.scoring import outcome
from service.scoring.execution import Execution
from service.scoring.grid import GridRows as ScoredRows
from service.scoring.masking import count_inside_mask
from service.scoring.options import check_names
from service.scoring.planned import PlannedImage
from service.scoring.scorer import Scorer

TILE_SHARE = 1 / 6
"""Share of the memory of the machine that one tile may need."""


@dataclass(frozen=True)
class SharedCompute:
    """How the threads of a process that score images share the computation."""

    scheduler: Scheduler
    """Puts tiles of several images into one batch."""
    tuning: Tuning
    """Sizes of tiles."""
    threads: Threads
    """The threads in which networks compute."""


class LocalTransport:
    """Carries requests to the models of a directory, in the calling thread."""

    def __init__(
        self,
        models: Path,
        timeout: float | None = None,
        *,
        provider: ProviderName = "auto",
        precision: PrecisionName = "auto",
        tile_mib: int | None = None,
        shared: SharedCompute | None = None,
    ) -> None:
        """Open a directory of models. Calls may take `timeout` seconds.

        Raises RequestError if the directory does not exist, or this machine lacks the provider or the precision.

        Default of `shared`: each calling thread runs its own tiles, each network computes with all CPUs, and the sizes
        of tiles, with which scores change by rounding, follow from `tile_mib`, by default from this machine's memory.
        """
        if not models.is_dir():
            raise RequestError(
                f"models: expected a directory of models, got {models}, which does not exist or is a file; name the "
                "directory (in the command --models)"
            )
        try:
            backends = tuple(RequestedBackend(provider, precision).backends())
        except MissingBackendError as error:
            raise RequestError(str(error)) from None
        registry = Registry(models, options=LoadOptions(shared.threads if shared else Threads(), backends))
        own = Tuning.of_memory(TILE_SHARE) if tile_mib is None else Tuning(tile_bytes=tile_mib * MIB)
        self._scorer = Scorer(registry, tuning=shared.tuning if shared else own)
        self._timeout, self._scheduler = timeout, shared.scheduler if shared else None

    def score(self, request: scoring_pb2.ScoreRequest, source: ImageSource, timeout: float | None) -> WholeAnswer:
        """Score one image; raises ScoringError."""
        return self._score(request, source, self._deadline(timeout))

    def _score(self, request: scoring_pb2.ScoreRequest, source: ImageSource, deadline: "_Deadline") -> WholeAnswer:
        stream = self._stream(request, source, deadline, ignore_progress)
        rows = list(stream.rows())
        return WholeAnswer(stream.summary(), rows)

    def _deadline(self, timeout: float | None) -> "_Deadline":
        check_timeout(timeout)
        return _Deadline(self._timeout if timeout is None else timeout)

    def stream(
        self,
        request: scoring_pb2.ScoreRequest,
        source: ImageSource,
        timeout: float | None,
        progress: ProgressCallback,
        *,
        execute: "Execute" = Execution,
    ) -> "LocalStream":
        """Plan one image; raises ScoringError. `execute` makes the execution of the plan. Default: all of it is run."""
        return self._stream(request, source, self._deadline(timeout), progress, execute)

    def _stream(
        self,
        request: scoring_pb2.ScoreRequest,
        source: ImageSource,
        deadline: "_Deadline",
        progress: ProgressCallback,
        execute: "Execute" = Execution,
    ) -> "LocalStream":
        with _as_client_errors():
            requested = decode.scoring_request(request)
            self._scorer.check(requested)
            planned = self._scorer.plan(_picture(source, requested.options.selection), requested)

        def report(done: int, total: int) -> None:
            deadline.check()
            progress("scoring", done, total)

        decoding = UnsharedDecoding(deadline.check)
        flow = None if self._scheduler is None else Flow(self._scheduler)
        return LocalStream(planned, execute(planned, flow, report, decoding=decoding), deadline, flow)

    def plan(
        self, request: scoring_pb2.ScoreRequest, source: ImageSource, timeout: float | None
    ) -> scoring_pb2.ScoreResponse:
        """Plan one image, and count the windows inside its mask; raises ScoringError."""
        return self.stream(request, source, timeout, ignore_progress).planned()

    def score_many(
        self, items: Iterable[ManyItem], timeout: float | None
    ) -> Iterator[tuple[ManyItem, WholeAnswer | ScoringError]]:
        """Score images one after the other."""
        deadline = self._deadline(timeout)
        for item in items:
            try:
                result: WholeAnswer | ScoringError = self._score(*item.request(), deadline)
            except ScoringError as error:
                result = error
            yield item, result

    def models(self) -> scoring_pb2.ListModelsResponse:
        """List the models."""
        return encode.models_response(self._scorer.registry)

    def model(self, request: scoring_pb2.GetModelRequest) -> scoring_pb2.GetModelResponse:
        """Describe a model; raises RequestError."""
        with _as_client_errors():
            check_names([request.model, request.version])
            return encode.model_response(self._scorer.model(request.model, request.version), self._scorer.limits)

    def close(self) -> None:
        """Do nothing: the models are released with this object."""


class Executed(Protocol):
    """The execution of a plan: iterate `rows`, then take `result`."""

    def rows(self) -> Iterator[ScoredRows]:
        """Yield the rows of the grid from top to bottom, if a grid was requested."""

    def result(self) -> outcome.Result:
        """Return the averages, after the last row."""


class Execute(Protocol):
    """Makes the execution of a plan; the arguments are those of `Execution`."""

    def __call__(
        self,
        planned: PlannedImage,
        engine: Engine | None = ...,
        progress: Callable[[int, int], None] = ...,
        *,
        decoding: Decoding = ...,
    ) -> Executed:
        """Return the execution."""


class LocalStream:
    """One image being scored in the calling thread, while its rows are taken."""

    def __init__(
        self, planned: PlannedImage, execution: Executed, deadline: "_Deadline", flow: Flow | None = None
    ) -> None:
        self.planned_image, self.execution, self._deadline, self._flow = planned, execution, deadline, flow
        self.start = encode.planned_response(planned)

    def rows(self) -> Iterator[GridRows]:
        """Score; yields the rows of the grid, top to bottom, if a grid was requested. Raises ScoringError."""
        with _as_client_errors():
            for rows in self.execution.rows():
                yield GridRows(rows.first, rows.scores, rows.positions, rows.further)

    def summary(self) -> scoring_pb2.ScoreResponse:
        """Return the averages, after the last rows; raises ImageError if no window was scored."""
        with _as_client_errors():
            return encode.summary(outcome.Scored(self.planned_image, (), self.execution.result()))

    def planned(self) -> scoring_pb2.ScoreResponse:
        """Return the response for a request of the plan alone; raises ImageError."""
        with _as_client_errors():
            counts = tuple(count_inside_mask(self.planned_image, UnsharedDecoding(self._deadline.check)))
            return encode.plan_response(outcome.Counted(self.planned_image, counts))

    def close(self) -> None:
        """Drop the tiles that wait; another thread may call this. Scoring stops when no rows are taken."""
        if self._flow is not None:
            self._flow.cancel()


class _Deadline:
    """The end of the time that a call may take."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def check(self) -> None:
        """Raise UnavailableError if the deadline has passed."""
        if self._end is not None and time.monotonic() > self._end:
            raise UnavailableError(
                f"timeout: expected an answer within {self._timeout:g} seconds, got none; allow more time, or score a "
                "region"
            )


@dataclass(frozen=True)
class _ArrayRows:
    """The rows of an array, which are read when they are needed."""

    source: ArraySource

    @property
    def block_rows(self) -> int:
        """Rows that are best read together."""
        return self.source.chunk_rows

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, width, channels)."""
        rows = self.source.read(first, stop)
        return rows.reshape(*rows.shape[:2], -1)


def _picture(source: ImageSource, chosen: PageSelection) -> Picture:
    match source:
        case FileSource():
            return open_path(source.path, chosen)
        case EncodedSource():
            return open_bytes(source.data, chosen, name=source.name or "image")
        case ArraySource():
            name, dtype = source.name or "image", source.dtype.name
            return open_array(name, source.shape, dtype, lambda: _ArrayRows(source), chosen)


@contextmanager
def _as_client_errors() -> Iterator[None]:
    """Raise the service's errors as errors of `fullconv`, so that a server and this process raise the same errors."""
    try:
        yield
    except errors.ServiceError as error:
        raise KINDS.get(reason_of(error), UnavailableError)(message_of(error)) from None
