"""What is asked of a model, as keywords; the same for the client, its command, and scoring in this process."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.answer import AVERAGES
from fullconv.errors import RequestError
from fullconv.images import Image, message_of, readable
from fullconv.protos import scoring_pb2

MODES = {"auto": scoring_pb2.MODE_AUTO, "dense": scoring_pb2.MODE_DENSE, "crops": scoring_pb2.MODE_CROPS}
BORDERS = {"lattice": scoring_pb2.BORDER_LATTICE, "anchor": scoring_pb2.BORDER_ANCHOR}
GRIDS = {
    "float32": scoring_pb2.GRID_AS_FLOAT32,
    "float16": scoring_pb2.GRID_AS_FLOAT16,
    "top": scoring_pb2.GRID_AS_TOP,
    "argmax": scoring_pb2.GRID_AS_ARGMAX,
}
PRIORITIES = {
    "low": scoring_pb2.PRIORITY_LOW,
    "normal": scoring_pb2.PRIORITY_NORMAL,
    "high": scoring_pb2.PRIORITY_HIGH,
}
Value = TypeVar("Value")

SCALE = re.compile(r"(?P<side>[1-9][0-9]{0,8})|(?P<factor>[0-9]{1,9}(\.[0-9]{1,9})?|\.[0-9]{1,9})x")


class Options(TypedDict, total=False):
    """Every option has a default; lengths in pixels of the image."""

    stride: int
    """Between neighbouring windows, of the image as it is scaled; the model's native stride unless given."""
    mode: Literal["auto", "dense", "crops"]
    """One pass over the image, window by window, or whichever is cheaper where both give the same scores: "auto"."""
    border: Literal["lattice", "anchor"]
    """Whether there is one more row and column of windows, flush with the image's edge: "anchor"."""
    roi: tuple[int, int, int, int]
    """x, y, width, height: only windows inside."""
    mask: Image | NDArray[np.bool_] | Literal["otsu"]
    """Only windows all of whose pixels are not 0 in an image of the same aspect ratio; or that are not background:
    "otsu"."""
    flip: bool
    """Average with the mirrored image."""
    scales: Sequence[int | str]
    """Average over sizes: pixels of the shorter side, or factors as "0.5x"."""
    average: Literal["scores", "probabilities"]
    """What is averaged over the windows; "scores" unless given."""
    top: int
    """How many classes to name; 5 unless given."""
    classes: Sequence[str]
    """Labels or indices to answer with; all unless given."""
    grid: bool | Literal["float32", "float16", "top", "argmax"]
    """Whether to answer with every window's scores, or with its highest alone."""
    grid_top: int
    """How many of the highest; 5 unless given."""
    bands: Sequence[int]
    """The bands of the image to score, in this order, counted from 1; all unless given."""
    page: int
    """The page of a multi-page file, counted from 1; the first page of full resolution unless given."""
    priority: Literal["low", "normal", "high"]
    """The share of a server's compute beside other requests: a quarter of a normal one's, or four times it."""


def options_message(options: Options) -> scoring_pb2.ScoreOptions:
    """The options as a message; raises RequestError, naming the option, for a value that cannot be."""
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise TypeError(
            f"expected options among {', '.join(Options.__annotations__)}, got {', '.join(sorted(unknown))}"
        )
    grid = options.get("grid", False)
    message = scoring_pb2.ScoreOptions(
        stride=_count("stride", options["stride"]) if "stride" in options else 0,
        mode=_named("mode", options.get("mode", "auto"), MODES),
        border=_named("border", options.get("border", "lattice"), BORDERS),
        flip=_flag("flip", options.get("flip", False)),
        scales=[scale_message(scale) for scale in _several(options.get("scales", ()))],
        average=_named("average", options.get("average", "scores"), {name: value for value, name in AVERAGES.items()}),
        top=_count("top", options["top"]) if "top" in options else 0,
        classes=[_class(name) for name in _several(options.get("classes", ()))],
        grid=bool(grid) if isinstance(grid, str) else _flag("grid", grid, *GRIDS),
        grid_as=_named("grid", grid if isinstance(grid, str) else "float32", GRIDS),
        grid_top=_count("grid_top", options["grid_top"]) if "grid_top" in options else 0,
        bands=[_count("bands", band) for band in _several(options.get("bands", ()))],
        page=_count("page", options["page"]) if "page" in options else 0,
        priority=_named("priority", options["priority"], PRIORITIES) if "priority" in options else None,
    )
    if "roi" in options:
        try:
            region = dict(zip(("x", "y", "width", "height"), options["roi"], strict=True))
        except (TypeError, ValueError):
            raise RequestError(f"roi: expected x, y, width, height; got {options['roi']!r}") from None
        message.region.CopyFrom(
            scoring_pb2.Region(**{name: _count("roi", value, least=0) for name, value in region.items()})
        )
    if "mask" in options:
        set_mask(message, options["mask"])
    return message


def set_mask(message: scoring_pb2.ScoreOptions, mask: Image | NDArray[np.bool_] | Literal["otsu"]) -> None:
    """Take a mask: "otsu", or an image; raises ImageError if its file cannot be read."""
    if isinstance(mask, str) and mask == "otsu":
        message.mask_otsu = True
        return
    if isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    message.mask_image.CopyFrom(message_of(cast("Image", mask), "mask"))


def scale_message(scale: int | str) -> scoring_pb2.Scale:
    """Pixels of the shorter side, 384 or "384"; or a factor, "0.5x"."""
    match = SCALE.fullmatch(str(scale))
    if match and match["side"]:
        return scoring_pb2.Scale(shorter_side=int(match["side"]))
    if match and float(match["factor"]):
        return scoring_pb2.Scale(factor=float(match["factor"]))
    raise RequestError(f"scales: expected pixels of the shorter side, 384, or a factor, 0.5x; got {scale!r}")


def _named(field: str, name: str, values: Mapping[str, Value]) -> Value:
    if not isinstance(name, str) or name not in values:
        raise RequestError(f"{field}: expected {' or '.join(values)}, got {name!r}")
    return values[name]


def _several(values: Any) -> list[Any]:  # noqa: ANN401 (what somebody gave)
    """A list of values; one alone is a list too."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return [values]
    return list(values)


def _class(name: object) -> str:
    if not isinstance(name, (str, int, np.integer)) or isinstance(name, bool) or str(name) != readable(str(name)):
        raise RequestError(f"classes: expected labels or indices, got {name!r}")
    return str(name)


def _flag(field: str, value: object, *others: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"{field}: expected {' or '.join(('True', 'False', *others))}, got {value!r}")
    return bool(value)


def _count(field: str, value: int, *, least: int = 1) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not least <= value < 1 << 32:
        raise RequestError(f"{field}: expected {least} to {(1 << 32) - 1}, got {value!r}")
    return int(value)
