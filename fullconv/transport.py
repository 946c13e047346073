"""Transports carry requests to a scoring service: over gRPC to servers, or by calls within this process.

Requests and answers are messages (protos/scoring.proto). Transports raise only the errors of `fullconv.errors`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from fullconv.errors import ScoringError
from fullconv.grid import GridRows
from fullconv.images import ImageSource
from fullconv.protos import scoring_pb2

ProgressCallback = Callable[[str, int, int], None]
"""Takes the current activity ("sending" or "scoring"), the amount that is done, and the total amount."""


def ignore_progress(_what: str, _done: int, _of: int) -> None:
    """Ignore a report of progress."""


class WholeAnswer(NamedTuple):
    """A whole answer: its message, and its grid if that is not in the message."""

    response: scoring_pb2.ScoreResponse
    rows: Sequence[GridRows] = ()
    """The grid, if it was requested and is not in the message."""


@dataclass
class ManyItem:
    """One of the images that `score_many` scores: its id, and a function that makes its request when it is sent."""

    name: str
    make: Callable[[], tuple[scoring_pb2.ScoreRequest, ImageSource]]
    """Returns the request without the image, and the image; raises ScoringError if the image cannot be used."""
    made: tuple[scoring_pb2.ScoreRequest, ImageSource] = field(init=False)
    """What `make` returned, after `request` was called."""

    def request(self) -> tuple[scoring_pb2.ScoreRequest, ImageSource]:
        """Make the request, and remember it."""
        self.made = self.make()
        return self.made


class ResponseStream(Protocol):
    """The answer for one image, which arrives in parts."""

    @property
    def start(self) -> scoring_pb2.ScoreResponse:
        """The image, the grid's geometry, the mode and the plan, known before a pixel is decoded."""

    def rows(self) -> Iterator[GridRows]:
        """Score; yields the rows of the grid from top to bottom, if a grid was requested."""

    def summary(self) -> scoring_pb2.ScoreResponse:
        """Return the answer without the grid, after the last rows."""

    def close(self) -> None:
        """Stop scoring."""


class Transport(Protocol):
    """Carries the requests of a `BaseScorer`. `timeout` is in seconds. Default: the transport's own timeout."""

    def score(self, request: scoring_pb2.ScoreRequest, source: ImageSource, timeout: float | None) -> WholeAnswer:
        """Score one image, and return the whole answer."""

    def stream(
        self,
        request: scoring_pb2.ScoreRequest,
        source: ImageSource,
        timeout: float | None,
        progress: ProgressCallback,
    ) -> ResponseStream:
        """Begin to score one image, and return the stream of its answer."""

    def plan(
        self, request: scoring_pb2.ScoreRequest, source: ImageSource, timeout: float | None
    ) -> scoring_pb2.ScoreResponse:
        """Plan how to score one image, for a request with `plan_only`."""

    def score_many(
        self, items: Iterable[ManyItem], timeout: float | None
    ) -> Iterator[tuple[ManyItem, WholeAnswer | ScoringError]]:
        """Score images; yields answers and errors in the order in which they are finished."""

    def models(self) -> scoring_pb2.ListModelsResponse:
        """List the models."""

    def model(self, request: scoring_pb2.GetModelRequest) -> scoring_pb2.GetModelResponse:
        """Describe a model."""

    def close(self) -> None:
        """Release everything."""
