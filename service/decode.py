"""Messages as values: the only module that reads a ScoreRequest, its options and its image.

An option that is absent, 0 or UNSPECIFIED in the message keeps the default of `service.scoring.options.Options`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from fullconv.protos import scoring_pb2
from service.errors import ImageError, OptionError
from service.images.allowed_directory import AllowedDirectory
from service.images.arrays import open_raw
from service.images.encoded import open_bytes
from service.images.picture import FIRST_PAGE, PageSelection, Picture
from service.scoring.options import (
    OTSU,
    AverageOf,
    Border,
    GridAs,
    MaskOption,
    ModeChoice,
    Options,
    Priority,
    Region,
    Scale,
    check_names,
)
from service.scoring.scorer import ScoringRequest

Choice = TypeVar("Choice")

DEFAULTS = Options()
KINDS = {"mode": "Mode", "border": "Border", "average": "AverageOf", "grid_as": "GridAs", "priority": "Priority"}
"""For each field, the name of its enum in scoring.proto."""
MODES = {
    scoring_pb2.MODE_UNSPECIFIED: DEFAULTS.mode,
    scoring_pb2.MODE_AUTO: ModeChoice.AUTO,
    scoring_pb2.MODE_DENSE: ModeChoice.DENSE,
    scoring_pb2.MODE_CROPS: ModeChoice.CROPS,
}
BORDERS = {
    scoring_pb2.BORDER_UNSPECIFIED: DEFAULTS.border,
    scoring_pb2.BORDER_LATTICE: Border.LATTICE,
    scoring_pb2.BORDER_ANCHOR: Border.ANCHOR,
}
AVERAGES = {
    scoring_pb2.AVERAGE_OF_UNSPECIFIED: DEFAULTS.average,
    scoring_pb2.AVERAGE_OF_SCORES: AverageOf.SCORES,
    scoring_pb2.AVERAGE_OF_PROBABILITIES: AverageOf.PROBABILITIES,
}
GRIDS = {
    scoring_pb2.GRID_AS_UNSPECIFIED: DEFAULTS.grid_as,
    scoring_pb2.GRID_AS_FLOAT32: GridAs.FLOAT32,
    scoring_pb2.GRID_AS_FLOAT16: GridAs.FLOAT16,
    scoring_pb2.GRID_AS_TOP: GridAs.TOP,
    scoring_pb2.GRID_AS_ARGMAX: GridAs.ARGMAX,
}
PRIORITIES = {
    scoring_pb2.PRIORITY_UNSPECIFIED: DEFAULTS.priority,
    scoring_pb2.PRIORITY_LOW: Priority.LOW,
    scoring_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    scoring_pb2.PRIORITY_HIGH: Priority.HIGH,
}


def scoring_request(message: scoring_pb2.ScoreRequest | scoring_pb2.LargeImage) -> ScoringRequest:
    """Return what a request asks for; raises OptionError."""
    image_name = message.name if isinstance(message, scoring_pb2.LargeImage) else message.image.name
    check_names([message.model, message.version, image_name], message.options.classes)
    return ScoringRequest(message.model, message.version, options(message.options))


def options(message: scoring_pb2.ScoreOptions) -> Options:
    """Return the options of a message; raises OptionError for values that no model accepts."""
    return Options(
        stride=message.stride or DEFAULTS.stride,
        mode=_choice("mode", message.mode, MODES),
        border=_choice("border", message.border, BORDERS),
        region=_region(message),
        mask=_mask(message),
        flip=message.flip,
        scales=tuple(map(_scale, message.scales)) or DEFAULTS.scales,
        average=_choice("average", message.average, AVERAGES),
        top=message.top or DEFAULTS.top,
        classes=tuple(message.classes),
        grid=message.grid,
        grid_as=_choice("grid_as", message.grid_as, GRIDS),
        grid_top=message.grid_top or DEFAULTS.grid_top,
        selection=PageSelection(message.page, tuple(message.bands)),
        priority=_choice("priority", message.priority, PRIORITIES),
        plan_only=message.plan_only,
    )


def open_image(
    message: scoring_pb2.Image, selection: PageSelection = FIRST_PAGE, allowed: AllowedDirectory | None = None
) -> Picture:
    """Open the image of a message; raises ImageError, or NotFoundError for a path that `allowed` does not have.

    Without a allowed, a path raises ImageError.
    """
    name = message.name or "image"
    match message.WhichOneof("pixels"):
        case "encoded":
            return open_bytes(message.encoded, selection, name=name)
        case "raw":
            raw = message.raw
            return open_raw((raw.height, raw.width, raw.channels), raw.dtype, raw.data, selection, name=name)
        case "path" if allowed is not None:
            return allowed.picture(message.path, selection)
        case "path":
            raise ImageError(f"{name}: path: expected encoded or raw pixels, got a path")
        case _:
            raise ImageError(f"{name}: image: expected encoded or raw pixels, or a path, got none")


def _choice(field: str, number: int, choices: Mapping[Any, Choice]) -> Choice:
    if number not in choices:
        raise OptionError(f"{field}: expected a value of {KINDS[field]}, got {number}")
    return choices[number]


def _region(message: scoring_pb2.ScoreOptions) -> Region | None:
    if not message.HasField("region"):
        return None
    region = message.region
    return Region(region.x, region.y, region.width, region.height)


def _mask(message: scoring_pb2.ScoreOptions) -> MaskOption:
    match message.WhichOneof("mask"):
        case "mask_image":
            return partial(open_image, message.mask_image)
        case "mask_otsu" if message.mask_otsu:
            return OTSU
    return None


def _scale(message: scoring_pb2.Scale) -> Scale:
    if message.WhichOneof("size") == "factor":
        return Scale(factor=message.factor)
    return Scale(shorter_side=message.shorter_side)
