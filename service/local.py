"""Scoring in this process, without a server: the part of the library that needs the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullconv.answer import Scores
from fullconv.errors import KINDS, RequestError
from fullconv.images import Pixels, chunk_rows, open_array, read_rows, readable
from fullconv.protos import scoring_pb2
from fullconv.remote.large import Watch, unwatched
from service import decode, encode, errors
from service.images.arrays import open_array as array_picture
from service.images.files import open_path
from service.images.picture import PageSelection, Picture
from service.images.pixels import SampleArray
from service.reasons import message_of, reason_of
from service.scoring.execution import Execution
from service.scoring.masking import count_inside_mask
from service.scoring.options import check_names
from service.scoring.outcome import Counted, Scored
from service.scoring.planned import PlannedImage
from service.scoring.scorer import Scorer


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
            check_names([name, version])
            return encode.model_response(self._scorer.model(name, version), self._scorer.limits)

    def start(self, image: Path, request: scoring_pb2.ScoreRequest, watch: Watch = unwatched) -> "LocalRun":
        """Plan an image; raises ImageError or RequestError."""
        with _translated():
            asked = decode.scoring_request(request)
            self._scorer.check(asked)
            planned = self._scorer.plan(_picture(image, asked.options.selection), asked)
            return LocalRun(planned, watch)


class LocalRun:
    """One image being scored: `response` is known but for averages and times; take `bands`, then `answer`."""

    def __init__(self, planned: PlannedImage, watch: Watch) -> None:
        self._planned = planned
        self._execution = Execution(planned, progress=lambda done, total: watch("scoring", done, total))
        if planned.options.asked.plan_only:
            counts = tuple(count_inside_mask(planned, lambda: None))
            self.response = encode.plan_response(Counted(planned, counts))
        else:
            self.response = encode.planned_response(planned)

    def bands(self) -> Iterator[tuple[int, Scores]]:
        """Score: (first row, scores (rows, cols, depth)), top to bottom; raises ImageError."""
        with _translated():
            for rows in self._execution.rows():
                yield rows.first, rows.scores

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages, after the last band."""
        with _translated():
            return encode.summary(Scored(self._planned, (), self._execution.result()))

    def close(self) -> None:
        """Do nothing: it stops when nobody takes bands."""


@dataclass(frozen=True)
class _Sliced:
    """The rows of an array, as they are asked for."""

    pixels: Pixels
    name: str

    @property
    def block_rows(self) -> int:
        """Those of a chunk, if there are chunks."""
        return chunk_rows(self.pixels)

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) as (rows, width, channels)."""
        rows = read_rows(self.pixels, first, stop, self.name)
        return rows.reshape(*rows.shape[:2], -1)


def _picture(path: Path, chosen: PageSelection) -> Picture:
    pixels = open_array(path)
    if pixels is None:
        return open_path(path, chosen)
    height, width, channels = (*pixels.shape, 1)[:3]
    dtype = np.dtype(pixels.dtype).name
    name = readable(path.name)
    return array_picture(name, (height, width, channels), dtype, lambda: _Sliced(pixels, name), chosen)


@contextmanager
def _translated() -> Iterator[None]:
    """The service's errors as the client's, so that a server and this process fail alike."""
    try:
        yield
    except errors.ServiceError as error:
        raise KINDS.get(reason_of(error), RequestError)(message_of(error)) from None
