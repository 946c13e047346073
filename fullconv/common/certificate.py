"""What a parity certificate says, in the same words wherever it is said: by the converter and by the service.

A certificate holds what was seen on a number of windows. It bounds nothing, so that no sentence here says "up to".
"""

import math

from fullconv.common.geometry import reach_after
from fullconv.protos import model_pb2, scoring_pb2

LEAST_AGREEMENT = 0.9
"""Share of the windows with the same top class. Below it, that dense is not exact is a warning."""
NORMAL_QUANTILE = 1.959964
"""Of 97.5 %: the half-width, in standard deviations, of an interval of 95 %."""


def interval(agreement: float, windows: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a share seen on a number of windows (Wilson score interval)."""
    square = NORMAL_QUANTILE**2
    centre = (agreement + square / (2 * windows)) / (1 + square / windows)
    variance = agreement * (1 - agreement) / windows + square / (4 * windows**2)
    half = NORMAL_QUANTILE * math.sqrt(variance) / (1 + square / windows)
    return max(0.0, min(agreement, centre - half)), min(1.0, max(agreement, centre + half))


def has_top_class(output: model_pb2.Output) -> bool:
    """Whether the highest score names a class: not for regression, and not for a single score."""
    return output.kind != "raw" and output.classes > 1


def overall(spec: model_pb2.ModelSpec, position: int) -> model_pb2.Difference:
    """Returns dense against crops over all windows compared, at one of the model's strides.

    A certificate that records interior and border cells only is put together, without the 99th percentile. The
    agreement and its interval are 0 for a model whose scores name no top class.
    """
    parity = spec.parity[position]
    whole = model_pb2.Difference()
    whole.CopyFrom(parity.overall)
    if not whole.windows:
        parts = [part for part in (parity.interior, parity.border) if part.windows]
        whole.windows = sum(part.windows for part in parts)
        for name in ("max_abs", "median_abs", "relative_l2"):
            setattr(whole, name, max((getattr(part, name) for part in parts), default=0.0))
        if whole.windows:
            agreeing = sum(part.top_class_agreement * part.windows for part in parts)
            whole.top_class_agreement = agreeing / whole.windows
            whole.agreement_low, whole.agreement_high = interval(whole.top_class_agreement, whole.windows)
    if not has_top_class(spec.output):
        for name in ("top_class_agreement", "agreement_low", "agreement_high"):
            whole.ClearField(name)
    return whole


def is_warning(seen: model_pb2.Difference) -> bool:
    """Whether a caller of dense must be warned: the top class agrees too rarely, or there is none to compare."""
    return not seen.agreement_high or seen.top_class_agreement < LEAST_AGREEMENT


def sentence(spec: model_pb2.ModelSpec, position: int, crops: float, dense: float, on: str = "") -> str:
    """Returns what dense means at one of the strides of a model that is not exact, and what crops would cost.

    `crops` and `dense` are the multiply-adds of the two modes, `on` says for which image. Of a network of reduced
    precision that reads nothing beyond its window, crops are no better, and it says so.
    """
    seen = overall(spec, position)
    if seen.agreement_high:
        said = f"dense names the classifier's own top class on {agreement(seen)}"
    else:
        said = (
            f"dense scores differ from the classifier's own by {seen.median_abs:.2g} (median) and {seen.max_abs:.2g} "
            f"(largest seen on {seen.windows} windows)"
        )
    reduced = spec.precision not in ("", "fp32")
    if reduced and not _reads_beyond(spec):
        return f"{said}; {spec.precision} makes the difference, in --mode crops too"
    own = f"the classifier's own answers in {spec.precision}" if reduced else "the classifier's own answers"
    return f"{said}; --mode crops gives {own} for {_times(crops, dense)} the compute{on}"


def agreement(seen: model_pb2.Difference | scoring_pb2.ParityInfo) -> str:
    """Returns a share of windows and its interval: "49 % of windows (45 to 53 %)"."""
    low, high = _percent(seen.agreement_low), _percent(seen.agreement_high)
    return f"{_percent(seen.top_class_agreement)} % of windows ({low} to {high} %)"


def _reads_beyond(spec: model_pb2.ModelSpec) -> bool:
    """Whether a cell reads anything beyond its window."""
    axes = ((spec.vertical, spec.window.height), (spec.horizontal, spec.window.width))
    return any(
        axis.padding_before > 0 or reach_after(window, axis.receptive_field, axis.padding_before) > 0
        for axis, window in axes
    )


def _percent(share: float) -> str:
    """A share as a number of percent; neither 0 nor 100 unless it is."""
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.1f}"
    return f"{100 * share:.0f}"


def _times(crops: float, dense: float) -> str:
    factor = crops / dense if dense else 1.0  # pools alone multiply nothing
    return f"{factor:.0f} times" if factor >= 9.5 else f"{factor:.2g} times"
