"""Scoring in this process, without a server. The only module here that imports the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.errors import ImageError, RequestError
from protos import scoring_pb2
from service import errors
from service.images.picture import open_file
from service.scoring import Run, Scorer, choose_classes


class LocalScorer:
    """Scores image files with the models of a directory."""

    def __init__(self, models: Path) -> None:
        """Take the models of a repository; raises RequestError if there is none."""
        if not models.is_dir():
            raise RequestError(f"models: expected a directory of models, got {models}; name it with --models")
        self._scorer = Scorer(models)

    def model(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """Describe a model; raises RequestError."""
        with _translated():
            return self._scorer.describe(name, version)

    def start(self, image: Path, request: scoring_pb2.ScoreRequest) -> "LocalRun":
        """Plan an image; raises ImageError or RequestError."""
        with _translated():
            choose_classes(self._scorer.model(request.model, request.version), request.options)
            return LocalRun(self._scorer.plan(open_file(image), request))


class LocalRun:
    """One image being scored: `response` is known but for averages and times; take `bands`, then `answer`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.response = run.response

    def bands(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Score: (first row, scores (rows, cols, classes) float32), top to bottom; raises ImageError."""
        with _translated():
            yield from self._run.bands()

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages, after the last band."""
        with _translated():
            return self._run.answer()


@contextmanager
def _translated() -> Iterator[None]:
    """The service's errors as the client's, so that a server and this process fail alike."""
    try:
        yield
    except errors.ImageError as error:
        raise ImageError(str(error)) from None
    except errors.ServiceError as error:
        raise RequestError(str(error)) from None
