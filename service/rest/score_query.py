"""The options of a score over HTTP: the query of /viewer/score, and the mask at the beginning of the body."""

from dataclasses import dataclass

from starlette.datastructures import QueryParams

from fullconv.common.geojson import GeoJsonError, areas_of
from fullconv.common.names import MODES
from fullconv.protos import scoring_pb2
from service.errors import ImageError, OptionError
from service.rest.requests import read_json
from service.rpc.parameters import region_of, scales_of

OPTIONS = (
    "model",
    "version",
    "name",
    "stride",
    "mode",
    "region",
    "mask",
    "mask_bytes",
    "flip",
    "scales",
    "mpp",
    "plan_only",
    "plane",
)
OTSU, AREAS, IMAGE = MASKS = ("otsu", "areas", "image")
"""Kinds of masks: found in the image; a GeoJSON document; an encoded image."""
MOST_DIGITS = 9


@dataclass(frozen=True)
class ScoreQuery:
    """The first message of the call without its mask, the classes whose values are requested, and the mask's size."""

    start: scoring_pb2.LargeImage
    planes: list[int]
    mask: str
    """A kind of mask, or "" if all windows are scored."""
    mask_bytes: int
    """Bytes of the mask, with which the body begins; the file follows."""

    def set_mask(self, file: bytes) -> None:
        """Add the mask to the message; raises OptionError, LimitError or ImageError for a document that is no areas."""
        options = self.start.options
        if self.mask == OTSU:
            options.mask_otsu = True
        elif self.mask == IMAGE:
            options.mask_image.CopyFrom(scoring_pb2.Image(name="mask", encoded=file))
        elif self.mask == AREAS:
            try:
                options.mask_areas.CopyFrom(areas_of(read_json(file, "GeoJSON")))
            except GeoJsonError as error:
                raise ImageError(str(error)) from None


def score_query(query: QueryParams) -> ScoreQuery:
    """Return the options of a query; raises OptionError."""
    for name in query:
        if name not in OPTIONS:
            raise OptionError(f"query: expected {', '.join(OPTIONS)}, got {name[:40]!r}")
    model, version, name = (query.get(field, "") for field in ("model", "version", "name"))
    start = scoring_pb2.LargeImage(model=model, version=version, name=name, options=_options(query))
    mask = _choice(query, "mask", ("", *MASKS))
    mask_bytes = _number("mask_bytes", query.get("mask_bytes") or "0")
    if (mask_bytes > 0) != (mask in (AREAS, IMAGE)):
        raise OptionError(
            f"mask_bytes: expected the size of the mask with mask=areas and mask=image only, got {mask_bytes} with "
            f"mask={mask}"
        )
    return ScoreQuery(start, [_number("plane", text) for text in query.getlist("plane")], mask, mask_bytes)


def _options(query: QueryParams) -> scoring_pb2.ScoreOptions:
    options = scoring_pb2.ScoreOptions(
        grid=True,
        mode=MODES[_choice(query, "mode", tuple(MODES))],
        stride=_stride(query),
        flip=_flag(query, "flip"),
        plan_only=_flag(query, "plan_only"),
    )
    if query.get("region"):
        region = region_of(query["region"])
        options.region.CopyFrom(scoring_pb2.Region(x=region.x, y=region.y, width=region.width, height=region.height))
    if query.get("scales"):
        scales = scales_of(query["scales"])
        options.scales.extend(scoring_pb2.Scale(shorter_side=each.shorter_side, factor=each.factor) for each in scales)
    if query.get("mpp"):
        options.microns_per_pixel = _decimal("mpp", query["mpp"])
    return options


def _stride(query: QueryParams) -> int:
    """Return the pixels between windows; 0 for the model's native stride if the query has none."""
    if not query.get("stride"):
        return 0
    stride = _number("stride", query["stride"])
    if not stride:
        raise OptionError("stride: expected a number of pixels from 1, got 0; leave it out for the native stride")
    return stride


def _choice(query: QueryParams, name: str, choices: tuple[str, ...]) -> str:
    """Return one of some words; default: the first."""
    value = query.get(name) or choices[0]
    if value not in choices:
        raise OptionError(f"{name}: expected {' or '.join(filter(None, choices))}, got {value[:40]!r}")
    return value


def _flag(query: QueryParams, name: str) -> bool:
    return _choice(query, name, ("false", "true")) == "true"


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        raise OptionError(f"{name}: expected a number, got {text[:40]!r}")
    return int(text)


def _decimal(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{name}: expected a number, got {text[:40]!r}") from None
