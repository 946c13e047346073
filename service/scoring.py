"""The main path: an image and options in, the plan, the rows of the grid and the averages out.

    model → plan → decode → tile by tile → rows of the grid, and the averages

A `Run` is planned, and refused if it must be, before a pixel is decoded. Rows are handed out as they are done, so that
memory does not grow with the grid.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protos import model_pb2, scoring_pb2
from service.dense.axis import AxisLattice
from service.dense.reducers import Mean, highest, probabilities
from service.dense.tiles import AxisTile, TilePlan, plan_tiles
from service.engine.repository import ModelRepository, StoredModel
from service.engine.session import Session
from service.errors import CancelledRunError, ImageError, LimitError, ModelError, NotFoundError, OptionError
from service.images.picture import Picture, open_image

Thing = TypeVar("Thing")

TOP = 5
CROPS_PER_TILE = 4  # side by side; windows that overlap are more
MIB = 1 << 20
CLASS_BYTES, REST_BYTES = 300, 4096  # of an answer, beside the grid
OF_PROBABILITIES = scoring_pb2.AVERAGE_OF_PROBABILITIES


@dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    image_pixels: int = 256_000_000
    message_bytes: int = 64 << 20
    waiting: int = 256
    """Requests that are admitted and not finished."""
    waiting_bytes: int = 1 << 30
    """Their messages together."""
    tile_bytes: int = 2 << 30
    """Activations of one tile. A larger tile computes less halo twice; a smaller one fits a smaller machine."""


class Scorer:
    """Scores images with the models of a repository; loads each model once."""

    def __init__(self, models: Path, limits: Limits | None = None) -> None:
        self.repository = ModelRepository(models)
        self.limits = limits or Limits()
        self._models: dict[tuple[str, str], StoredModel] = {}
        self._sessions: dict[tuple[str, str], Session] = {}
        self._loading = Lock()

    def model(self, name: str, version: str = "") -> StoredModel:
        """Find a model, or raise NotFoundError or ModelError."""
        version = self.repository.find(name, version)
        return self._once(self._models, (name, version), lambda: self.repository.open(name, version))

    def session(self, model: StoredModel) -> Session:
        """The session that runs a model, shared by all its runs; loaded when first asked for."""
        return self._once(self._sessions, (model.name, model.version), lambda: Session(model))

    def _once(self, made: dict[tuple[str, str], Thing], key: tuple[str, str], make: Callable[[], Thing]) -> Thing:
        """Make each thing once; those that are made already wait for no others."""
        if key not in made:
            with self._loading:
                if key not in made:
                    made[key] = make()
        return made[key]

    def describe(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """What is known of a model, and what may be asked of it."""
        model = self.model(name, version)
        limits = scoring_pb2.Limits(image_pixels=self.limits.image_pixels, message_bytes=self.limits.message_bytes)
        return scoring_pb2.GetModelResponse(spec=model.spec, version=model.version, labels=model.labels, limits=limits)

    def plan(
        self, picture: Picture, request: scoring_pb2.ScoreRequest, cancelled: Callable[[], bool] = lambda: False
    ) -> "Run":
        """Plan how to score a picture; the request's own image is not looked at.

        Raises an error of `service.errors` if the picture or an option cannot be used. The run asks `cancelled` now and
        then, and stops with CancelledRunError when it says so.
        """
        started = time.monotonic()
        model = self.model(request.model, request.version)
        chosen = choose_classes(model, request.options)
        picture.check(max_pixels=self.limits.image_pixels, window=model.spec.window, wanted=model.spec.input)
        plan = plan_tiles(
            AxisLattice(picture.height, model.vertical),
            AxisLattice(picture.width, model.horizontal),
            pixels=self._tile_pixels(model),
        )
        return Run(picture, model, self.session(model), plan, request.options, chosen, started, cancelled)

    def _tile_pixels(self, model: StoredModel) -> int:
        """Pixels of a tile: what memory allows; of crops, a few windows, so that a cancelled run ends soon."""
        if model.mode == "crops":
            return CROPS_PER_TILE * model.vertical.window * model.horizontal.window
        return max(1, int(self.limits.tile_bytes / model.spec.cost[0].activation_bytes_per_pixel))

    def answer(
        self, request: scoring_pb2.ScoreRequest, cancelled: Callable[[], bool] = lambda: False
    ) -> scoring_pb2.ScoreResponse:
        """Score the request's own image, the whole answer at once, in the calling thread; otherwise like `plan`."""
        choose_classes(self.model(request.model, request.version), request.options)
        run = self.plan(open_image(request.image), request, cancelled)
        if request.options.grid:
            run.check_answer(self.limits.message_bytes)
        rows = [scores for _, scores in run.bands() if request.options.grid]
        response = run.answer()
        response.scores = b"".join(np.ascontiguousarray(scores, "<f4").tobytes() for scores in rows)
        return response


@dataclass
class Run:
    """One image being scored: iterate `bands`, then take `answer`."""

    picture: Picture
    model: StoredModel
    session: Session
    tiles: TilePlan
    options: scoring_pb2.ScoreOptions
    chosen: list[int]
    started: float
    cancelled: Callable[[], bool]
    response: scoring_pb2.ScoreResponse = field(init=False)
    _mean: Mean = field(init=False)

    def __post_init__(self) -> None:
        """Say everything that is known before the pixels are."""
        self.response = describe(self)
        self._mean = Mean(self.model.spec.output.classes)

    def bands(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Score, top to bottom: (first row, scores (rows, cols, chosen classes) float32) for every band of tiles."""
        before = time.monotonic()
        self._check_cancelled()
        pixels = self.picture.pixels(self.model.spec.input, self.cancelled)
        self.response.timing.decode_ms = _milliseconds(before)
        for row in self.tiles.rows:
            before = time.monotonic()
            band = self._band(pixels, row)
            self._mean.add(self._averaged(band))
            self.response.timing.compute_ms += _milliseconds(before)
            yield row.first, band if len(self.chosen) == band.shape[-1] else band[..., self.chosen]

    def check_answer(self, limit: int) -> None:
        """Raise LimitError if the grid does not fit a message of so many bytes, with room for the rest."""
        rows, cols, classes = self.tiles.vertical.cells, self.tiles.horizontal.cells, len(self.chosen)
        size = rows * cols * classes * 4 + classes * CLASS_BYTES + REST_BYTES
        if size > limit:
            raise LimitError(
                f"{self.picture.name}: grid: {rows}×{cols} cells of {classes} classes are {size / MIB:.1f} MiB, "
                f"expected at most {limit / MIB:.1f}: name fewer classes, cut the image, or leave the grid out"
            )

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages over all cells; only after the last band."""
        average = self._mean.value[self.chosen]
        if not np.isfinite(average).all():
            raise ImageError(f"{self.picture.name}: model {self.model.name!r} gives scores that are NaN or infinite")
        self.response.average.values[:] = average.tolist()
        self.response.average.top[:] = highest(average, self.options.top or TOP)
        self.response.timing.total_ms = _milliseconds(self.started)
        return self.response

    def _band(self, pixels: NDArray[np.uint8] | NDArray[np.float32], row: AxisTile) -> NDArray[np.float32]:
        band = np.empty((row.stop - row.first, self.tiles.horizontal.cells, self.model.spec.output.classes), np.float32)
        for col in self.tiles.cols:
            self._check_cancelled()
            scores = self.session.run(pixels[row.pixels, col.pixels])
            if scores.shape != (row.count, col.count, band.shape[-1]):
                expected = (row.count, col.count, band.shape[-1])
                raise ModelError(
                    f"model {self.model.name!r}: expected a tile's grid of {expected}, got {scores.shape}: "
                    "its files do not fit its geometry; convert it again"
                )
            band[:, col.cells] = scores[row.kept, col.kept]
        return band

    def _check_cancelled(self) -> None:
        if self.cancelled():
            raise CancelledRunError(f"{self.picture.name}: nobody waits for the answer any longer")

    def _averaged(self, band: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.options.average == OF_PROBABILITIES:
            return probabilities(band, self.model.spec.output.kind)
        return band


def choose_classes(model: StoredModel, options: scoring_pb2.ScoreOptions) -> list[int]:
    """Resolve `options.classes`, labels first, then indices; refuse an average that the model does not have."""
    if options.average not in scoring_pb2.AverageOf.values():
        raise OptionError(f"average: expected a value of AverageOf, got {options.average}")
    if options.average == OF_PROBABILITIES and model.spec.output.kind == "raw":
        raise OptionError(f"average: model {model.name!r} has raw scores, no probabilities; average the scores")
    count = model.spec.output.classes
    positions = {str(index): index for index in range(count)}
    positions |= {label: index for index, label in reversed(list(enumerate(model.labels)))}
    unknown = [name for name in options.classes if name not in positions]
    if unknown:
        raise NotFoundError(f"classes: expected labels of model {model.name!r} or 0 to {count - 1}, got {unknown[0]!r}")
    return list(dict.fromkeys(positions[name] for name in options.classes)) or list(range(count))


def describe(run: Run) -> scoring_pb2.ScoreResponse:
    """Everything in an answer but averages, scores and times."""
    spec, vertical, horizontal = run.model.spec, run.tiles.vertical, run.tiles.horizontal
    average = run.options.average or scoring_pb2.AVERAGE_OF_SCORES
    return scoring_pb2.ScoreResponse(
        image=scoring_pb2.ImageInfo(name=run.picture.name, width=run.picture.width, height=run.picture.height),
        model=run.model.name,
        version=run.model.version,
        mode=run.model.mode,
        grid=scoring_pb2.GridInfo(
            rows=vertical.cells,
            cols=horizontal.cells,
            stride=model_pb2.Size(height=vertical.geometry.stride, width=horizontal.geometry.stride),
            window=spec.window,
            left_out=model_pb2.Size(height=vertical.left_out, width=horizontal.left_out),
        ),
        classes=[scoring_pb2.Class(index=index, label=run.model.label(index)) for index in run.chosen],
        average=scoring_pb2.Average(of=average),
        parity=parity_info(spec),
    )


def parity_info(spec: model_pb2.ModelSpec) -> scoring_pb2.ParityInfo:
    """The native stride's certificate in two figures."""
    certificate = spec.parity[0]
    worst = max(certificate.interior.max_abs, certificate.border.max_abs)
    return scoring_pb2.ParityInfo(exact=certificate.exact, max_abs_diff=worst)


def _milliseconds(since: float) -> float:
    return (time.monotonic() - since) * 1e3
