"""The stream of one image: the rows of its grid are taken while it is scored."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from fullconv.answer import Answer
from fullconv.errors import ScoringError
from fullconv.grid import GridRows, Scores
from fullconv.protos import scoring_pb2
from fullconv.transport import ResponseStream


class ScoreStream:
    """The answer of `score_large`, part by part: iterate `bands` or `rows`, then call `result`.

    To stop earlier, leave the `with` block or call `close`.
    """

    def __init__(self, responses: ResponseStream, answer_of: Callable[[scoring_pb2.ScoreResponse], Answer]) -> None:
        self._responses, self._answer_of = responses, answer_of
        self._rows = responses.rows()
        self._error: ScoringError | None = None
        self._result: Answer | None = None
        self.planned = answer_of(responses.start)
        """The image, the windows, the mode and the plan, known before a pixel is decoded. It has no averages."""

    def bands(self) -> Iterator[tuple[int, Scores]]:
        """Score; yields the rows of the grid from top to bottom, if a grid was requested.

        Each item is (index of the first row, scores (rows, cols, depth)). Raises ImageError, RequestError or
        UnavailableError.
        """
        for rows in self.rows():
            yield rows.first, rows.scores

    def rows(self) -> Iterator[GridRows]:
        """Score; yields the same rows as `bands`, and for a grid of the highest scores the positions of the classes."""
        try:
            for rows in self._rows:  # noqa: UP028 (`yield from` would end the shared iterator with this one)
                yield rows
        except ScoringError as error:
            self._error = error
            raise

    def result(self) -> Answer:
        """Return the averages, always the same answer; rows that were not taken are scored and dropped."""
        for _ in self.rows():
            pass
        if self._error is not None:
            raise self._error
        if self._result is None:
            self._result = self._answer_of(self._responses.summary())
        return self._result

    def close(self) -> None:
        """Stop scoring, here or on the server."""
        self._responses.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
