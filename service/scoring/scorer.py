"""From a request and an image to a planned image: the model, its options, the plan, the mask.

    model → options → plan → mask → PlannedImage (planned.py) → Execution (execution.py)

Requests are refused here if possible, before a pixel is decoded.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fullconv.common.text import counted
from fullconv.protos import model_pb2
from service.engine.registry import Registry
from service.engine.repository import StoredModel
from service.engine.version import ServedVersion
from service.errors import CapabilityError, LimitError
from service.images.areas import Areas, RequestedAreas, make_areas
from service.images.decoding import Decoding, DecodingRates
from service.images.mask import Foreground, Intersection, Mask, MaskImage, check_mask, find_foreground, mask_image
from service.images.picture import Picture, TurnRows, check_size
from service.limits import MIB, Limits, Tuning
from service.scoring.decoding import plan_decoding
from service.scoring.modes import Rate, choose
from service.scoring.options import OTSU, ModeChoice, RequestedOptions, ResolvedOptions, resolve
from service.scoring.plan import Bounds, ImageSizes, Plan, make_plan
from service.scoring.planned import OpenMask, PlannedImage
from service.scoring.resolution import scored_size

KEPT_PLANS = 256
"""Number of plans that are kept for images of the same size and options."""
KEPT_TILES, KEPT_CLASSES = 256, 16
"""Tiles along both axes of the largest plan that is kept, and the largest number of classes that its options name."""
CLASS_BYTES, RESPONSE_BYTES = 300, 4096
"""Bytes of an answer in addition to its grid: for each class, and for all other fields."""


@dataclass(frozen=True)
class ScoringRequest:
    """A model, and how to score with it. An empty version means the highest version that can serve."""

    model: str
    version: str = ""
    options: RequestedOptions = field(default_factory=RequestedOptions)


class Scorer:
    """Plans how to score images with the models of a repository; loads each model once. Safe to share between threads.

    `models` is the repository's directory, or a registry of one.
    """

    def __init__(self, models: Path | Registry, limits: Limits | None = None, tuning: Tuning | None = None) -> None:
        self.registry = models if isinstance(models, Registry) else Registry(models)
        self.limits = limits or Limits()
        self._tuning = tuning or Tuning()
        self.rates = DecodingRates()
        self._plans: OrderedDict[tuple[StoredModel, RequestedOptions, ImageSizes, int], Plan] = OrderedDict()

    def model(self, name: str, version: str = "") -> StoredModel:
        """Return a model; raises NotFoundError or ModelError."""
        return self.registry.get(name, version)[1]

    def check(self, request: ScoringRequest) -> None:
        """Raise NotFoundError, ModelError or OptionError if the request would fail for every image."""
        self._resolved(request)

    def load(self, request: ScoringRequest) -> None:
        """Load everything that planning a request reads from the repository.

        Raises NotFoundError, ModelError, OptionError or CapabilityError.
        """
        served, model, options = self._resolved(request)
        for mode in choose(model, options)[0]:
            self.registry.session(served, model, mode.position, reference=self._needs_reference(options.requested))

    def is_loaded(self, request: ScoringRequest) -> bool:
        """Return whether a request can be planned without reading the model's files."""
        options = request.options
        all_files = options.stride is not None or options.mode in (ModeChoice.SHARED, ModeChoice.EXACT)
        reference = self._needs_reference(options)
        return self.registry.is_loaded(request.model, request.version, all_files=all_files, reference=reference)

    def _needs_reference(self, options: RequestedOptions) -> bool:
        """Return whether the scores must be those of fp32 on the CPU: the request asks for the classifier's own."""
        guaranteed = options.mode is ModeChoice.EXACT or options.min_agreement is not None
        return guaranteed and self.registry.loader.chooses_precision

    def plan(self, picture: Picture, request: ScoringRequest, *, pixels: int | None = None) -> PlannedImage:
        """Plan how to score a picture of at most `pixels` pixels. Default: the limit for images read row by row.

        Raises an error of `service.errors` if the picture or an option cannot be used.
        """
        return self._planned(picture, self._resolved(request), self.limits.large_pixels if pixels is None else pixels)

    def plan_whole(
        self, open_picture: Callable[[], Picture], request: ScoringRequest, *, answer_bytes: int | None = None
    ) -> PlannedImage:
        """Open an image that is in memory as a whole, and plan how to score it.

        Raises LimitError if its grid does not fit an answer of `answer_bytes` bytes. Default: the limit for messages.
        """
        resolved = self._resolved(request)
        planned = self._planned(open_picture(), resolved, self.limits.image_pixels)
        if request.options.grid:
            check_answer(planned, self.limits.message_bytes if answer_bytes is None else answer_bytes)
        return planned

    def _resolved(self, request: ScoringRequest) -> tuple[ServedVersion, StoredModel, ResolvedOptions]:
        served, model = self.registry.get(request.model, request.version)
        if request.options.min_agreement is not None and not self.registry.loader.has_full_precision:
            raise CapabilityError(
                "min_agreement: expected a model in fp32, with which the agreement was measured, got a lower "
                "precision; leave it out, or set precision to auto or fp32 where the model is loaded"
            )
        return served, model, resolve(model, request.options)

    def _planned(
        self, picture: Picture, resolved: tuple[ServedVersion, StoredModel, ResolvedOptions], pixels: int
    ) -> PlannedImage:
        served, model, options = resolved
        check_size(picture, max_pixels=pixels, max_whole_pixels=self.limits.image_pixels, window=model.spec.window)
        picture.check_bands(model.spec.input)

        session = partial(self.registry.session, served, model, reference=self._needs_reference(options.requested))

        def rate(position: int) -> float:
            return session(position).measured_rate

        scored = scored_size(picture, options.requested.resolution, model.spec.microns_per_pixel)
        sizes = ImageSizes(picture.size, scored.size, tuple(copy.size for copy in picture.copies))
        plan = self._plan(model, options, sizes, pixels, rate)
        mask = _mask_picture(options, self.limits)
        requested = options.requested.mask
        areas = make_areas(requested, picture) if isinstance(requested, RequestedAreas) else None
        open_mask = _open_mask(picture, model, options, mask or areas)
        decoding = plan_decoding(picture, mask, plan, options, model.spec.input, self.rates)
        planned = PlannedImage(
            picture, model, plan.mode.session(session(plan.mode.position)), plan, options, open_mask, decoding,
            areas=areas.named if areas else (), resolution_note=scored.note,
        )  # fmt: skip
        _check_memory(planned, self.limits.plan_bytes)
        return planned

    def _plan(
        self,
        model: StoredModel,
        options: ResolvedOptions,
        sizes: ImageSizes,
        pixels: int,
        rate: Rate,
    ) -> Plan:
        """Make a plan. Plans of few tiles without a mask are kept, since many requests are likely to share them."""
        requested = options.requested
        key = (model, requested, sizes, pixels)
        may_be_kept = requested.mask is None and len(requested.classes) <= KEPT_CLASSES
        plan = self._plans.get(key) if may_be_kept else None
        if plan is None:
            bounds = Bounds(pixels, self.limits.plan_bytes, self._tuning)
            plan = make_plan(model, options, sizes, bounds, rate=rate)
            if may_be_kept and _axis_tiles(plan) <= KEPT_TILES:
                self._plans[key] = plan
                while len(self._plans) > KEPT_PLANS:
                    self._plans.popitem(last=False)
        return plan


def _axis_tiles(plan: Plan) -> int:
    """Return the number of tiles along both axes, of all views, which the memory of a plan is proportional to."""
    plans = [view.tile_plan for view in plan.views]
    return sum(len(each.columns) + sum(len(band.tiles) for band in each.bands) for each in plans)


def check_answer(planned: PlannedImage, limit: int) -> None:
    """Raise LimitError if the grid does not fit a message of `limit` bytes, with room for the rest of the answer."""
    tiles, classes = planned.plan.views[0].tile_plan, len(planned.options.classes)
    size = tiles.cells * planned.options.cell_bytes + classes * CLASS_BYTES + RESPONSE_BYTES
    if size > limit:
        raise LimitError(
            f"{planned.picture.name}: grid: expected at most {limit / MIB:.4g} MiB, got {size / MIB:.4g} MiB for "
            f"{tiles.vertical.cells}×{tiles.horizontal.cells} cells of {counted(classes, 'class')}; name fewer "
            "classes, use a coarser stride, grid_as or a region, leave the grid out, or call ScoreLarge, which sends "
            "the grid row by row",
            of_answer=True,
        )


def check_row(planned: PlannedImage, limit: int) -> None:
    """Raise LimitError if one row of the grid does not fit a message of `limit` bytes."""
    size = planned.plan.views[0].tile_plan.horizontal.cells * planned.options.cell_bytes
    if size > limit:
        raise LimitError(
            f"{planned.picture.name}: grid: expected rows of at most {limit / MIB:.4g} MiB, got {size / MIB:.4g} MiB; "
            "name fewer classes, or use a coarser stride, grid_as or a region"
        )


def _check_memory(planned: PlannedImage, limit: int) -> None:
    """Raise LimitError if decoding and scoring together need more memory than one image may have."""
    if planned.bytes > limit:
        raise LimitError(
            f"{planned.picture.name}: memory: expected a plan of at most {limit >> 20} MiB, got "
            f"{planned.bytes >> 20} MiB, of which {planned.decoding.held_bytes >> 20} MiB are for decoding a "
            f"{planned.picture.cost.kind} file; save it as a baseline JPEG, or as a tiled TIFF"
        )


def _mask_picture(options: ResolvedOptions, limits: Limits) -> Picture | None:
    """Open the mask image of a request; None if it has none. Raises ImageError if it is too large."""
    requested = options.requested.mask
    if requested is None or requested == OTSU or isinstance(requested, RequestedAreas):
        return None
    mask = requested()
    one_pixel = model_pb2.Size(height=1, width=1)
    check_size(mask, max_pixels=limits.large_pixels, max_whole_pixels=limits.image_pixels, window=one_pixel)
    return mask


def _open_mask(
    picture: Picture, model: StoredModel, options: ResolvedOptions, mask: Picture | Areas | None
) -> OpenMask:
    """Return the function that opens the mask: windows with data in all pixels that the requested mask selects too.

    Raises ImageError, before anything is scored, for a mask whose size does not fit.
    """
    open_requested, size = _requested_mask(picture, model, options, mask), (picture.height, picture.width)

    def open_mask(decoding: Decoding) -> Mask | None:
        rows, requested = picture.data_mask(decoding), open_requested(decoding)
        if rows is None:
            return requested
        data = MaskImage(TurnRows(rows, picture.cost, decoding), size, size)
        return data if requested is None else Intersection(data, requested)

    return open_mask


def _requested_mask(
    picture: Picture, model: StoredModel, options: ResolvedOptions, mask: Picture | Areas | None
) -> OpenMask:
    """Return the function that opens the requested mask."""
    if isinstance(mask, Areas):
        return lambda _: mask.all
    if mask is not None:
        check_mask(mask, picture)
        return lambda decoding: mask_image(mask, picture, decoding)
    if options.requested.mask == OTSU:
        return _kept_foreground(picture, model.spec.input)
    return lambda _: None


def _kept_foreground(picture: Picture, model_input: model_pb2.Input) -> OpenMask:
    """Return a function that finds the foreground of an image when it is first called, and keeps it."""
    found: list[Foreground] = []

    def foreground(decoding: Decoding) -> Foreground:
        if not found:
            found.append(find_foreground(picture, model_input, decoding))
        return found[0]

    return foreground
