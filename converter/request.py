"""The request for a conversion: the options of the command and of the Python function, with defaults and limits."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, get_args

from converter.errors import OptionError
from fullconv.common.model_files import NAME, VERSION

Precision = Literal["fp32", "fp16", "int8"]
Activation = Literal["softmax", "sigmoid", "none"]

FULL_PRECISION: Precision = "fp32"
MIN_AGREEMENT = 0.99
"""Default share of windows on which reduced precision must name the same top class as float32."""
MAX_WINDOWS = 10_000
MAX_SIDE = 9999
MAX_STRIDE = 99_999
MAX_MPP = 1e9
"""Largest side of a pixel, in micrometres: a kilometre, for satellites."""


@dataclass(frozen=True)
class Request:
    """The options of a conversion; None stands for the classifier's own default.

    `target` is the version's directory. `also` are the names of outputs to keep beside the scores. `labels` are a file,
    or the names themselves. `mpp` is the side of a pixel in micrometres. `windows` is the number of windows to compare
    with the source. `strides` are in pixels; with `crops_only` there is at most one stride, the distance of windows.
    `min_agreement` is a share from 0 to 1, for reduced precision only; None stands for MIN_AGREEMENT. Raises
    OptionError if an option is wrong.
    """

    target: Path
    _: KW_ONLY
    force: bool = False
    preprocess: str | None = None
    activation: Activation | None = None
    scores: str | None = None
    also: tuple[str, ...] = ()
    labels: Path | tuple[str, ...] | None = None
    mpp: float | None = None
    card: Path | None = None
    windows: int | None = None
    images: Path | None = None
    strides: tuple[int, ...] = ()
    crops_only: bool = False
    precision: Precision = FULL_PRECISION
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        self._check_target()
        self._check_choices()
        if self.windows is not None and not 1 <= self.windows <= MAX_WINDOWS:
            raise OptionError("verify", f"expected from 1 to {MAX_WINDOWS} windows, got {self.windows}")
        if self.mpp is not None and not 0 < self.mpp <= MAX_MPP:
            raise OptionError(
                "mpp", f"expected micrometres per pixel above 0 and at most {MAX_MPP:g}, got {self.mpp:g}"
            )
        listed = ",".join(map(str, self.strides))
        if not all(1 <= stride <= MAX_STRIDE for stride in self.strides):
            raise OptionError("strides", f"expected pixels from 1 to {MAX_STRIDE}, like 32,16,8, got '{listed}'")
        if self.crops_only and len(self.strides) > 1:
            raise OptionError("strides", f"expected one with --crops-only, got '{listed}'")
        self._check_precision()

    @property
    def name(self) -> str:
        """The model's name, which is that of the directory above the version."""
        return self.target.absolute().parent.name

    @property
    def least_agreement(self) -> float:
        """The smallest share of windows on which reduced precision must name the same top class as float32."""
        return MIN_AGREEMENT if self.min_agreement is None else self.min_agreement

    def _check_target(self) -> None:
        if not NAME.fullmatch(self.name) or not VERSION.fullmatch(self.target.absolute().name):
            raise OptionError(
                "target",
                "expected a path that ends in NAME/VERSION, NAME of the letters A to Z and a to z, digits, '.', '_' "
                f"and '-', VERSION a number from 1, got '{self.target}'",
            )

    def _check_choices(self) -> None:
        if self.precision not in get_args(Precision):
            raise OptionError("precision", f"expected {', '.join(get_args(Precision))}, got {self.precision!r}")
        if self.activation not in (None, *get_args(Activation)):
            raise OptionError("activation", f"expected {', '.join(get_args(Activation))}, got {self.activation!r}")

    def _check_precision(self) -> None:
        least = self.min_agreement
        if self.precision == "int8" and self.images is None:
            raise OptionError(
                "precision", "int8 is calibrated on images like those to be scored: name their folder with --images"
            )
        if least is not None and self.precision == FULL_PRECISION:
            raise OptionError("min_agreement", "expected with --precision fp16 or int8 only")
        if least is not None and not 0 <= least <= 1:
            raise OptionError("min_agreement", f"expected a share from 0 to 1, got {least}")


def check_window(window: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return a window as (height, width) in pixels; raises OptionError unless both are from 1 to 9999."""
    if window is None:
        return None
    height, width = (window, window) if isinstance(window, int) else window
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise OptionError(
            "window", f"expected pixels from 1 to {MAX_SIDE}, 224 or HEIGHTxWIDTH, got '{height}x{width}'"
        )
    return height, width
