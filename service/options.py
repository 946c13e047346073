"""The options of a request, resolved for a model: what it asks for, before any image is looked at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from fullconv.protos import scoring_pb2
from service.engine.repository import StoredModel
from service.errors import NotFoundError, OptionError
from service.images.picture import MAX_BANDS, PageSelection

TOP = 5
MAX_STRIDE = 1 << 20
MAX_SCALES = 16
MAX_SIDE = 10_000_000
NAME_LETTERS, CLASSES = 255, 1 << 16

FLOAT32, FLOAT16 = scoring_pb2.GRID_AS_FLOAT32, scoring_pb2.GRID_AS_FLOAT16
TOP_CLASSES, ARGMAX = scoring_pb2.GRID_AS_TOP, scoring_pb2.GRID_AS_ARGMAX
OF_SCORES, OF_PROBABILITIES = scoring_pb2.AVERAGE_OF_SCORES, scoring_pb2.AVERAGE_OF_PROBABILITIES


ENUMS = {
    "average": scoring_pb2.AverageOf,
    "mode": scoring_pb2.Mode,
    "border": scoring_pb2.Border,
    "grid_as": scoring_pb2.GridAs,
    "priority": scoring_pb2.Priority,
}
VALUES = {name: frozenset(enum.values()) for name, enum in ENUMS.items()}


@dataclass(frozen=True)
class Options:
    """What is asked of a model; sizes in pixels, pairs vertical before horizontal."""

    asked: scoring_pb2.ScoreOptions
    chosen: tuple[int, ...]
    """Classes to answer with, as positions in the network's output."""
    mode: str
    """"dense", "crops" or "auto"."""
    stride: tuple[int, int]

    @property
    def average(self) -> "scoring_pb2.AverageOf":
        """What is averaged."""
        return self.asked.average or OF_SCORES

    @property
    def top(self) -> int:
        """How many averages to name."""
        return self.asked.top or TOP

    @property
    def anchored(self) -> bool:
        """Whether there are windows flush with the edge."""
        return self.asked.border == scoring_pb2.BORDER_ANCHOR

    @property
    def depth(self) -> int:
        """Numbers for each cell of the grid."""
        match self.grid_as:
            case scoring_pb2.GRID_AS_TOP:
                return min(self.asked.grid_top or TOP, len(self.chosen))
            case scoring_pb2.GRID_AS_ARGMAX:
                return 1
        return len(self.chosen)

    @property
    def grid_as(self) -> "scoring_pb2.GridAs":
        """What each cell of the grid holds."""
        return self.asked.grid_as or FLOAT32

    @property
    def cell_bytes(self) -> int:
        """Bytes of each cell of the grid in an answer."""
        return self.depth * {FLOAT32: 4, FLOAT16: 2, TOP_CLASSES: 8, ARGMAX: 8}[self.grid_as]

    @property
    def scales(self) -> list[scoring_pb2.Scale]:
        """The sizes at which the image is scored; none asked for is its own."""
        return list(self.asked.scales) or [scoring_pb2.Scale(factor=1)]


def selection(asked: scoring_pb2.ScoreOptions) -> PageSelection:
    """The page and bands that are scored; raises OptionError for band numbers below 1, or too many."""
    if len(asked.bands) > MAX_BANDS or 0 in asked.bands:
        got = ",".join(map(str, asked.bands[:10]))
        raise OptionError(f"bands: expected at most {MAX_BANDS} numbers, counted from 1, got {got}")
    return PageSelection(asked.page, tuple(asked.bands))


def check_names(names: Iterable[str], classes: Sequence[str] = ()) -> None:
    """Refuse names that are too long to be any, and classes that are too many, before they are looked up and quoted."""
    if len(classes) > CLASSES:
        raise OptionError(f"classes: expected at most {CLASSES} names, got {len(classes)}: none means all")
    for name in chain(names, classes):
        if len(name) > NAME_LETTERS:
            raise OptionError(f"names: expected at most {NAME_LETTERS} letters, got {len(name)}: {name[:20]}…")


def resolve(model: StoredModel, asked: scoring_pb2.ScoreOptions) -> Options:
    """Check everything that does not depend on the image; raises OptionError or NotFoundError."""
    for name, values in VALUES.items():
        if getattr(asked, name) not in values:
            kind = ENUMS[name].DESCRIPTOR.name
            raise OptionError(f"{name}: expected a value of {kind}, got {getattr(asked, name)}")
    if asked.average == OF_PROBABILITIES and model.spec.output.kind == "raw":
        raise OptionError(f"average: model {model.name!r} has raw scores, no probabilities; average the scores")
    if asked.stride > MAX_STRIDE:
        raise OptionError(f"stride: expected at most {MAX_STRIDE} pixels, got {asked.stride}")
    _check_scales(asked)
    mode = {scoring_pb2.MODE_DENSE: "dense", scoring_pb2.MODE_CROPS: "crops"}.get(asked.mode, "auto")
    stride = (asked.stride, asked.stride) if asked.stride else (model.vertical.stride, model.horizontal.stride)
    return Options(asked, _choose_classes(model, asked), mode, stride)


def _choose_classes(model: StoredModel, asked: scoring_pb2.ScoreOptions) -> tuple[int, ...]:
    """Labels first, then indices."""
    count = model.spec.output.classes
    if not asked.classes:
        return tuple(range(count))
    positions = {str(index): index for index in range(count)}
    positions |= {label: index for index, label in reversed(list(enumerate(model.labels)))}
    unknown = [name for name in asked.classes if name not in positions]
    if unknown:
        raise NotFoundError(f"classes: expected labels of model {model.name!r} or 0 to {count - 1}, got {unknown[0]!r}")
    return tuple(dict.fromkeys(positions[name] for name in asked.classes))


def _check_scales(asked: scoring_pb2.ScoreOptions) -> None:
    if len(asked.scales) > MAX_SCALES:
        raise OptionError(f"scales: expected at most {MAX_SCALES}, got {len(asked.scales)}")
    for scale in asked.scales:
        match scale.WhichOneof("size"):
            case "shorter_side" if 0 < scale.shorter_side <= MAX_SIDE:
                continue
            case "factor" if 0 < scale.factor <= MAX_SIDE:
                continue
        raise OptionError(f"scales: expected a positive number of pixels or a positive factor, got {scale_text(scale)}")


def scale_text(scale: scoring_pb2.Scale) -> str:
    """A scale as the command line spells it: "384" or "0.5x"."""
    return f"{scale.factor:g}x" if scale.WhichOneof("size") == "factor" else str(scale.shorter_side)


def scaled_size(scale: scoring_pb2.Scale, height: int, width: int) -> tuple[int, int]:
    """Height and width of an image at a scale, in pixels, rounded."""
    shorter = min(height, width)
    factor = scale.factor if scale.WhichOneof("size") == "factor" else scale.shorter_side / shorter
    return round(height * factor), round(width * factor)
