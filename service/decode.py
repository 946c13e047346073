"""Converts messages to plain values. Only this module reads a ScoreRequest, its options and its image.

An option that is absent, 0 or UNSPECIFIED in the message keeps the default of
`service.scoring.options.RequestedOptions`.
"""

from collections.abc import Mapping
from functools import lru_cache, partial

import numpy as np

from fullconv.common.names import AVERAGES, BORDERS, GRIDS, MODES, PRIORITIES, name_of
from fullconv.protos import scoring_pb2
from service.errors import ImageError, OptionError
from service.images.allowed_directory import AllowedDirectory
from service.images.areas import RequestedAreas, RequestedPolygon
from service.images.arrays import open_raw
from service.images.encoded import open_bytes
from service.images.headers import opens_quickly
from service.images.picture import FIRST_PAGE, PageSelection, Picture, UnopenedPicture
from service.scoring.options import (
    OTSU,
    AverageOf,
    Border,
    GridAs,
    MaskOption,
    ModeChoice,
    Priority,
    Region,
    RequestedOptions,
    Resolution,
    Scale,
    check_names,
)
from service.scoring.scorer import ScoringRequest

DEFAULTS = RequestedOptions()
KEPT_OPTIONS, KEPT_BYTES = 256, 1024
"""Number of different options that are kept, since many requests are likely to share them; and bytes of the largest."""
KINDS = {"mode": "Mode", "border": "Border", "average": "AverageOf", "grid_as": "GridAs", "priority": "Priority"}
"""For each field, the name of its enum in scoring.proto."""


def scoring_request(message: scoring_pb2.ScoreRequest | scoring_pb2.LargeImage) -> ScoringRequest:
    """Return the model, the version and the options of a request; raises OptionError."""
    image_name = message.name if isinstance(message, scoring_pb2.LargeImage) else message.image.name
    check_names([message.model, message.version, image_name])
    return ScoringRequest(message.model, message.version, options(message.options))


def options(message: scoring_pb2.ScoreOptions) -> RequestedOptions:
    """Return the options of a message; raises OptionError for values that no model accepts."""
    if message.WhichOneof("mask") is None and message.ByteSize() <= KEPT_BYTES:
        return _kept_options(message.SerializeToString())
    return _options(message)


@lru_cache(KEPT_OPTIONS)
def _kept_options(data: bytes) -> RequestedOptions:
    """Return the options of a serialized message without a mask; raises OptionError."""
    return _options(scoring_pb2.ScoreOptions.FromString(data))


def _options(message: scoring_pb2.ScoreOptions) -> RequestedOptions:
    return RequestedOptions(
        stride=message.stride or DEFAULTS.stride,
        mode=ModeChoice(_name("mode", message.mode, MODES, DEFAULTS.mode)),
        min_agreement=message.min_agreement or DEFAULTS.min_agreement,
        border=Border(_name("border", message.border, BORDERS, DEFAULTS.border)),
        region=_region(message),
        mask=_mask(message),
        flip=message.flip,
        scales=tuple(map(_scale, message.scales)) or DEFAULTS.scales,
        resolution=_resolution(message),
        average=AverageOf(_name("average", message.average, AVERAGES, DEFAULTS.average)),
        top=message.top or DEFAULTS.top,
        classes=tuple(message.classes),
        grid=message.grid,
        grid_as=GridAs(_name("grid_as", message.grid_as, GRIDS, DEFAULTS.grid_as)),
        grid_top=message.grid_top or DEFAULTS.grid_top,
        selection=PageSelection(message.page, tuple(message.bands)),
        priority=Priority(_name("priority", message.priority, PRIORITIES, DEFAULTS.priority)),
        plan_only=message.plan_only,
    )


def unopened_image(
    message: scoring_pb2.Image, selection: PageSelection, allowed: AllowedDirectory | None
) -> UnopenedPicture:
    """Return the image of a message, which is not opened yet; see `open_image`."""
    kind = message.WhichOneof("pixels")
    is_quick = kind == "raw" or (kind == "encoded" and opens_quickly(message.encoded))
    return UnopenedPicture(partial(open_image, message, selection, allowed), is_quick)


def open_image(
    message: scoring_pb2.Image, selection: PageSelection = FIRST_PAGE, allowed: AllowedDirectory | None = None
) -> Picture:
    """Open the image of a message; raises ImageError, or NotFoundError for a path that is not in `allowed`.

    If `allowed` is None, a path raises ImageError.
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


def _name(field: str, number: int, names: Mapping[str, int], default: str) -> str:
    """Return the name of an enum value, the default for 0; raises OptionError for a number without a name."""
    try:
        return name_of(names, number) if number else default
    except KeyError:
        raise OptionError(f"{field}: expected a value of {KINDS[field]}, got {number}") from None


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
        case "mask_areas":
            return RequestedAreas(tuple(map(_polygon, message.mask_areas.polygons)))
    return None


def _polygon(message: scoring_pb2.Polygon) -> RequestedPolygon:
    """Return a polygon; raises OptionError for an odd number of coordinates, or a name that is too long."""
    check_names([message.name])
    rings = [np.array(ring.coordinates, np.float64) for ring in message.rings]
    for ring in rings:
        if len(ring) % 2:
            raise OptionError(f"mask_areas: expected x and y for each point, got {len(ring)} coordinates")
    return RequestedPolygon(message.name, tuple(ring.reshape(-1, 2) for ring in rings))


def _resolution(message: scoring_pb2.ScoreOptions) -> Resolution:
    kind = message.WhichOneof("resolution")
    return Resolution(**{kind: getattr(message, kind)}) if kind else DEFAULTS.resolution


def _scale(message: scoring_pb2.Scale) -> Scale:
    if message.WhichOneof("size") == "factor":
        return Scale(factor=message.factor)
    return Scale(shorter_side=message.shorter_side)
