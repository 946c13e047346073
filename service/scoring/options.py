"""The options of a request: as they are requested, and as they are resolved for one model.

    message → RequestedOptions (service/decode.py) → resolve → ResolvedOptions → the plan

`RequestedOptions` holds every default. Neither class knows protobuf, and `resolve` needs the model but no image.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from fullconv.common.names import DEFAULT_TOP
from fullconv.common.probabilities import RAW
from service.engine.repository import StoredModel
from service.errors import NotFoundError, OptionError
from service.images.areas import RequestedAreas
from service.images.picture import FIRST_PAGE, MAX_BANDS, PageSelection, Picture

MAX_STRIDE = 1 << 20
"""Pixels."""
MAX_SCALES = 16
MAX_SIDE = 10_000_000
"""Largest shorter side of a scaled image in pixels, and largest factor."""
MAX_NAME_LETTERS = 255
MAX_CLASSES = 1 << 16


class ModeChoice(StrEnum):
    """How the model is run: in one of three modes, or in a mode that the plan chooses."""

    AUTO = "auto"
    """The cheaper of dense and crops if both give the same scores, else dense."""
    DENSE = "dense"
    SHARED = "shared"
    CROPS = "crops"
    EXACT = "exact"
    """The cheapest mode whose scores are the classifier's own."""


class Border(StrEnum):
    """What happens to pixels at the bottom and right that no window of the lattice covers."""

    LATTICE = "lattice"
    """They are left out."""
    ANCHOR = "anchor"
    """One more row and column of windows lie flush with the edge."""


class AverageOf(StrEnum):
    """What is averaged over the windows."""

    SCORES = "scores"
    PROBABILITIES = "probabilities"


class GridAs(StrEnum):
    """What each cell of the grid holds: the scores of all classes in one of two types, or the highest scores."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    TOP = "top"
    ARGMAX = "argmax"


class Priority(StrEnum):
    """The share of a server's compute that a request has beside other requests."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True)
class Region:
    """Pixels [x, x + width) and [y, y + height) of an image."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Scale:
    """A size at which an image is scored: pixels of its shorter side, or a factor for both sides. The other is None."""

    shorter_side: int | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        """Raise OptionError unless exactly one is given, above 0 and at most MAX_SIDE."""
        value = self.shorter_side if self.factor is None else self.factor
        if (self.shorter_side is None) == (self.factor is None) or value is None or not 0 < value <= MAX_SIDE:
            raise OptionError(
                f"scales: expected a positive number of pixels or a positive factor, each at most {MAX_SIDE}, "
                f"got {self}"
            )

    def __str__(self) -> str:
        """Spell it as the command line does: "384" or "0.5x"."""
        return str(self.shorter_side) if self.factor is None else f"{self.factor:g}x"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of an image at this scale, in pixels, rounded."""
        factor = (self.shorter_side or 0) / min(height, width) if self.factor is None else self.factor
        return round(height * factor), round(width * factor)


ORIGINAL_SIZE = Scale(factor=1.0)


@dataclass(frozen=True)
class Resolution:
    """The resolution at which an image is scored. None in all fields: the model's, or the image's own."""

    microns_per_pixel: float | None = None
    level: int | None = None
    """A reduced copy in the file, counted from 1; 0: the image itself."""
    magnification: float | None = None

    def __post_init__(self) -> None:
        """Raise OptionError for a size or a magnification that is not between MAX_SIDE and its inverse."""
        for name, value in (("mpp", self.microns_per_pixel), ("magnification", self.magnification)):
            if value is not None and not 1 / MAX_SIDE <= value <= MAX_SIDE:
                raise OptionError(f"{name}: expected a number from {1 / MAX_SIDE:g} to {MAX_SIDE}, got {value:g}")


DEFAULT_RESOLUTION = Resolution()

OTSU: Literal["otsu"] = "otsu"
MaskOption = Callable[[], Picture] | RequestedAreas | Literal["otsu"] | None
"""A function that opens a mask image: windows inside its nonzero pixels are scored. Areas: windows inside them are
scored. OTSU: windows with foreground are scored. None: all windows."""


@dataclass(frozen=True)
class RequestedOptions:
    """The options that a request states, before a model is known; lengths in pixels of the image."""

    stride: int | None = None
    """Between neighbouring windows. None: the model's native stride."""
    mode: ModeChoice = ModeChoice.AUTO
    min_agreement: float | None = None
    """Least share of windows on which the mode must agree with the classifier, as the converter has measured it; then
    the mode is AUTO. None: the mode does not depend on the agreement."""
    border: Border = Border.LATTICE
    region: Region | None = None
    """Only windows inside it are scored. None: all windows."""
    mask: MaskOption = None
    flip: bool = False
    """Whether the mirrored image is scored too, and averaged with the image."""
    scales: tuple[Scale, ...] = (ORIGINAL_SIZE,)
    """Sizes at which the image is scored and averaged; the grid is that of the first. Factors multiply the size at the
    resolution."""
    resolution: Resolution = DEFAULT_RESOLUTION
    average: AverageOf = AverageOf.SCORES
    top: int = DEFAULT_TOP
    """Number of classes with the highest averages that the answer names."""
    classes: tuple[str, ...] = ()
    """Labels or indices of the classes in the answer; labels are looked up first. Empty: all classes."""
    grid: bool = False
    """Whether the answer holds the scores of every cell."""
    grid_as: GridAs = GridAs.FLOAT32
    grid_top: int = DEFAULT_TOP
    """Number of classes in each cell of the grid if `grid_as` is TOP."""
    selection: PageSelection = FIRST_PAGE
    """Page and bands of the file."""
    priority: Priority = Priority.NORMAL
    plan_only: bool = False
    """Whether the answer is the plan, and nothing is scored."""

    def __post_init__(self) -> None:
        """Raise OptionError for values that no model accepts."""
        if len(self.classes) > MAX_CLASSES:
            raise OptionError(
                f"classes: expected at most {MAX_CLASSES} names, got {len(self.classes)}; leave classes out to get all"
            )
        check_names(self.classes)
        if self.stride is not None and self.stride > MAX_STRIDE:
            raise OptionError(f"stride: expected at most {MAX_STRIDE} pixels, got {self.stride}")
        if self.min_agreement is not None:
            _check_agreement(self.min_agreement, self.mode)
        if len(self.scales) > MAX_SCALES:
            raise OptionError(f"scales: expected at most {MAX_SCALES}, got {len(self.scales)}")
        bands = self.selection.bands
        if len(bands) > MAX_BANDS or 0 in bands:
            got = ",".join(map(str, bands[:10]))
            raise OptionError(f"bands: expected at most {MAX_BANDS} numbers, counted from 1, got {got}")

    @property
    def areas(self) -> int:
        """Number of areas, those with a name and all together, of which each window is tested; 0 for other masks."""
        return 1 + self.mask.names if isinstance(self.mask, RequestedAreas) else 0


@dataclass(frozen=True)
class ResolvedOptions:
    """RequestedOptions checked against a model; pairs are vertical before horizontal."""

    requested: RequestedOptions
    classes: tuple[int, ...]
    """Classes in the answer, as positions in the network's output."""
    stride: tuple[int, int]
    """Pixels between neighbouring windows."""
    has_all_classes: bool
    """Whether `classes` are all of the network's classes, in its order."""
    further: int = 0
    """Number of values of the further outputs in each cell of the grid."""

    @property
    def depth(self) -> int:
        """Number of scores in each cell of the grid."""
        match self.requested.grid_as:
            case GridAs.TOP:
                return min(self.requested.grid_top, len(self.classes))
            case GridAs.ARGMAX:
                return 1
        return len(self.classes)

    @property
    def cell_bytes(self) -> int:
        """Bytes of each cell of the grid in an answer."""
        each = {GridAs.FLOAT32: 4, GridAs.FLOAT16: 2, GridAs.TOP: 4 + 4, GridAs.ARGMAX: 4 + 4}
        return self.depth * each[self.requested.grid_as] + self.further * each[GridAs.FLOAT32]


def _check_agreement(least: float, mode: ModeChoice) -> None:
    if not 0 < least <= 1:
        raise OptionError(f"min_agreement: expected a share of windows above 0 and at most 1, got {least:g}")
    if mode is not ModeChoice.AUTO:
        raise OptionError(f"min_agreement: expected mode auto with it, which chooses the mode, got mode {mode}")


def check_names(names: Iterable[str]) -> None:
    """Raise OptionError for names that are too long, before they are looked up or quoted."""
    for name in names:
        if len(name) > MAX_NAME_LETTERS:
            raise OptionError(f"names: expected at most {MAX_NAME_LETTERS} letters, got {len(name)}: {name[:20]}…")


def resolve(model: StoredModel, requested: RequestedOptions) -> ResolvedOptions:
    """Resolve options for a model; raises OptionError, or NotFoundError for a class that it does not have."""
    if requested.average is AverageOf.PROBABILITIES and model.spec.output.kind == RAW:
        raise OptionError(
            f"average: expected scores, got probabilities, which model {model.name!r} does not have; average the scores"
        )
    stride = (model.vertical.stride, model.horizontal.stride) if requested.stride is None else (requested.stride,) * 2
    classes, everything = _positions(model, requested.classes), tuple(range(model.spec.output.classes))
    return ResolvedOptions(
        requested,
        classes,
        stride,
        has_all_classes=classes == everything,
        further=model.values - model.spec.output.classes,
    )


def _positions(model: StoredModel, names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the classes' positions in the network's output; a name is looked up as a label first, then as an index."""
    count = model.spec.output.classes
    if not names:
        return tuple(range(count))
    positions = {str(index): index for index in range(count)}
    positions |= {label: index for index, label in reversed(list(enumerate(model.labels)))}
    unknown = [name for name in names if name not in positions]
    if unknown:
        raise NotFoundError(f"classes: expected labels of model {model.name!r} or 0 to {count - 1}, got {unknown[0]!r}")
    return tuple(dict.fromkeys(positions[name] for name in names))
