"""The main path: an image and options in, the plan, the rows of the grid and the averages out.

    model → options → plan → strip by strip, tile by tile → rows of the grid, and the averages

A `Run` is planned, and refused if it must be, before a pixel is decoded.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from fullconv.protos import model_pb2, scoring_pb2
from service.answer import describe
from service.engine.engine import Engine, InlineEngine
from service.engine.registry import Registry
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.engine.version import ServedVersion
from service.errors import LimitError
from service.images.allowed_directory import AllowedDirectory
from service.images.encoded import open_image
from service.images.mask import Intersection, Mask, MaskImage, find_foreground, mask_image
from service.images.picture import Picture, check_size
from service.limits import Limits
from service.modes import choose
from service.options import Options, resolve, selection
from service.plan import Plan, make_plan
from service.run import Run

MIB = 1 << 20
PLANS, SMALL_PIXELS, CLASSES = 256, 1 << 22, 16
"""Plans that are kept; the pixels of the largest image whose plan is, and the most classes that it names."""
CLASS_BYTES, REST_BYTES = 300, 4096  # of an answer, beside the grid


Planned = tuple[Plan, scoring_pb2.ScoreResponse]
"""A plan, and what is known of every image so planned."""


class Scorer:
    """Scores images with the models of a repository; loads each model once."""

    def __init__(
        self, models: Path | Registry, limits: Limits | None = None, allowed_directory: AllowedDirectory | None = None
    ) -> None:
        self.registry = models if isinstance(models, Registry) else Registry(models)
        self.limits = limits or Limits()
        self.allowed_directory = allowed_directory or AllowedDirectory()
        self._plans: OrderedDict[tuple[StoredModel, bytes, tuple[int, int], int], Planned] = OrderedDict()

    def model(self, name: str, version: str = "") -> StoredModel:
        """A model, or NotFoundError or ModelError."""
        return self.registry.get(name, version)[1]

    def session(self, model: StoredModel, position: int) -> Session:
        """The session that runs one of a model's files, shared by all its runs; loaded when first asked for."""
        return self.registry.session(self.registry.get(model.name, model.version)[0], model, position)

    def load(self, request: scoring_pb2.ScoreRequest) -> None:
        """Load what a request's model needs to run, so that planning reads none of its files.

        Raises NotFoundError, ModelError, OptionError or CapabilityError.
        """
        served, model, options = self._resolved(request)
        for mode in choose(model, options)[0]:
            self.registry.session(served, model, mode.position)

    def describe(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """What is known of a model, and what may be asked of it."""
        model = self.model(name, version)
        limits = scoring_pb2.Limits(
            image_pixels=self.limits.image_pixels,
            message_bytes=self.limits.message_bytes,
            large_image_pixels=self.limits.large_pixels,
        )
        return scoring_pb2.GetModelResponse(spec=model.spec, version=model.version, labels=model.labels, limits=limits)

    def plan(
        self,
        picture: Picture,
        request: scoring_pb2.ScoreRequest,
        engine: Engine | None = None,
        *,
        pixels: int | None = None,
    ) -> Run:
        """Plan how to score a picture of at most so many pixels; the request's own image is not looked at.

        Raises an error of `service.errors` if the picture or an option cannot be used. The engine runs
        the tiles. Default: the calling thread.
        """
        return self._run(picture, self._resolved(request), engine, pixels)

    def _resolved(self, request: scoring_pb2.ScoreRequest) -> tuple[ServedVersion, StoredModel, Options]:
        served, model = self.registry.get(request.model, request.version)
        return served, model, resolve(model, request.options)

    def _run(
        self,
        picture: Picture,
        asked: tuple[ServedVersion, StoredModel, Options],
        engine: Engine | None,
        pixels: int | None,
    ) -> Run:
        (served, model, options), limits = asked, self.limits
        allowed = limits.large_pixels if pixels is None else pixels
        check_size(picture, max_pixels=allowed, max_whole_pixels=limits.image_pixels, window=model.spec.window)
        picture.check_bands(model.spec.input)

        def rate(position: int) -> float:
            return self.registry.session(served, model, position).measured_rate

        plan, described = self._planned(model, options, (picture.height, picture.width), allowed, rate)
        masks = _masks(picture, model, options, limits)
        session = self.registry.session(served, model, plan.mode.position)
        return Run(picture, model, session, plan, options, described, masks, engine or InlineEngine())

    def _planned(
        self, model: StoredModel, options: Options, size: tuple[int, int], pixels: int, rate: Callable[[int], float]
    ) -> Planned:
        """The plan of an image; small ones without a mask of their own, which many may ask for, are kept."""

        def make() -> Planned:
            plan = make_plan(model, options, size, self.limits, pixels=pixels, rate=rate)
            return plan, describe(size, model, options, plan)

        if math.prod(size) > SMALL_PIXELS or options.asked.WhichOneof("mask") or len(options.asked.classes) > CLASSES:
            return make()
        key = (model, options.asked.SerializeToString(deterministic=True), size, pixels)
        planned = self._plans.get(key)
        if planned is None:
            planned = self._plans[key] = make()
            while len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        return planned

    def prepare(
        self,
        request: scoring_pb2.ScoreRequest,
        engine: Engine | None = None,
        admit: Callable[[Run], None] = lambda _: None,
        *,
        share: int = 1,
    ) -> Run:
        """Plan how to score the request's own image, whose answer comes whole; otherwise like `plan`.

        `admit` may refuse what was planned, before a pixel is decoded. The answer has so many others beside it in a
        message.
        """
        asked, image, chosen = self._resolved(request), request.image, selection(request.options)
        by_path = image.WhichOneof("pixels") == "path"
        picture = self.allowed_directory.picture(image.path, chosen) if by_path else open_image(image, chosen)
        run = self._run(picture, asked, engine, self.limits.image_pixels)
        if request.options.grid:
            check_answer(run, self.limits.message_bytes // share)
        if not request.options.plan_only:
            admit(run)
        return run


def whole(run: Run) -> scoring_pb2.ScoreResponse:
    """The whole answer of a run at once."""
    if run.options.asked.plan_only:
        return run.planned()
    rows = list(run.bands())
    response = run.answer()
    response.scores = b"".join(little(band.scores) for band in rows)
    response.positions = b"".join(little(band.positions) for band in rows if band.positions is not None)
    return response


def check_answer(run: Run, limit: int) -> None:
    """Raise LimitError if the grid does not fit a message of so many bytes, with room for the rest."""
    tiles, classes = run.plan.views[0].tile_plan, len(run.options.chosen)
    size = tiles.cells * run.options.cell_bytes + classes * CLASS_BYTES + REST_BYTES
    if size > limit:
        raise LimitError(
            f"{run.picture.name}: grid: {tiles.vertical.cells}×{tiles.horizontal.cells} cells of {classes} classes are "
            f"{size / MIB:.1f} MiB, expected at most {limit / MIB:.1f}: name fewer classes, ask for a coarser stride, "
            "grid_as or a region, leave the grid out, or call ScoreLarge, which sends it row by row"
        )


def little(numbers: np.ndarray) -> bytes:
    """An array as an answer holds it: little-endian, the last index fastest."""
    return np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).tobytes()


Begin = Callable[[Callable[[], None]], Mask | None]
"""Begins a mask, from the top; what it is given is called now and then, and may raise to stop."""


def _masks(picture: Picture, model: StoredModel, options: Options, limits: Limits) -> Begin:
    """The mask asked for, and where there are data; refused here, before anything is scored, if it does not fit."""
    asked, size = _mask(picture, model, options, limits), (picture.height, picture.width)

    def begin(check: Callable[[], None]) -> Mask | None:
        valid, mask = picture.data_mask(), asked(check)
        if valid is None or mask is None:
            return mask if valid is None else MaskImage(valid, size, size)
        return Intersection(MaskImage(valid, size, size), mask)

    return begin


def _mask(picture: Picture, model: StoredModel, options: Options, limits: Limits) -> Begin:
    match options.asked.WhichOneof("mask"):
        case "mask_image":
            mask = open_image(options.asked.mask_image)
            one = model_pb2.Size(height=1, width=1)
            check_size(mask, max_pixels=limits.large_pixels, max_whole_pixels=limits.image_pixels, window=one)
            mask_image(mask, picture)
            return lambda _: mask_image(mask, picture)
        case "mask_otsu" if options.asked.mask_otsu:
            return cache(lambda check: find_foreground(picture, model.spec.input, check))
    return lambda _: None
