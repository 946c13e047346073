"""Images in, answers and files out: what `fullconv-score` does once its options are read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from client.answer import Answer, failure
from client.console import complain
from client.errors import ImageError, UnavailableError
from client.files import OutputError
from client.grid import Rows, grid_file
from client.progress import Progress, progress
from client.remote import readable
from client.table import table
from protos import scoring_pb2

STEM = "{stem}"
"""Stands for an image's name without its suffix in the names of outputs."""


class Run(Protocol):
    """One image being scored: `response` is known but for averages and times; take `bands`, then `answer`."""

    response: scoring_pb2.ScoreResponse

    def bands(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, scores (rows, cols, classes)), top to bottom."""

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages, after the last band."""


class Scorer(Protocol):
    """What scores: a server's client, or this process."""

    def model(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """Describe a model."""

    def start(self, image: Path, request: scoring_pb2.ScoreRequest) -> Run:
        """Begin to score an image file."""


@dataclass(frozen=True)
class Job:
    """How to score images, and where their grids and heatmaps go; `check` ends the process if that was asked for."""

    scorer: Scorer
    request: scoring_pb2.ScoreRequest
    grid: str | None
    heatmap: str | None
    check: Callable[[], None]

    def run(self, images: list[Path], *, quiet: bool) -> list[dict[str, Any]]:
        """Score one image after the other; one that cannot be scored becomes an entry with its error.

        Returns the JSON documents; unless `quiet`, prints a table for each image.
        """
        answers, console = [], Console(highlight=False)
        with progress() as advance:
            for image in images:
                try:
                    answer = Answer(self._score(image, advance))
                except (ImageError, OutputError, UnavailableError) as error:
                    if isinstance(error, UnavailableError) and len(images) == 1:
                        raise
                    complain(error)
                    answers.append(failure(readable(image.name), error))
                    continue
                answers.append(answer.document())
                if not quiet:
                    console.print(table(answer), "")
        return answers

    def _score(self, image: Path, advance: Progress) -> scoring_pb2.ScoreResponse:
        run = self.scorer.start(image, self.request)
        with ExitStack() as stack:
            sinks = [stack.enter_context(sink) for sink in self._sinks(image, run.response)]
            for first, scores in run.bands():
                for sink in sinks:
                    sink(first, scores)
                self.check()
                advance(image.name, first + len(scores), run.response.grid.rows)
            return run.answer()

    def _sinks(self, image: Path, response: scoring_pb2.ScoreResponse) -> Iterator[AbstractContextManager[Rows]]:
        """What the image's rows go into."""
        if self.grid:
            yield grid_file(_named(self.grid, image), response)
        if self.heatmap:
            from client.heatmap import heatmap_file  # noqa: PLC0415 (matplotlib takes a second to load)

            yield heatmap_file(_named(self.heatmap, image), image, response)

    def outputs(self, images: list[Path]) -> list[Path]:
        """Every file that is going to be written."""
        return [_named(name, image) for name in (self.grid, self.heatmap) if name is not None for image in images]


def _named(name: str, image: Path) -> Path:
    return Path(name.replace(STEM, image.stem))
