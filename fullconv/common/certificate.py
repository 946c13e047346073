"""Sentences about a model's parity certificate, for the converter, the service and the client.

A certificate records how far dense scores agreed with those of crops on the windows that were compared. It is not a
bound, so no sentence says "up to".
"""

import math

from fullconv.common.geometry import reach_after
from fullconv.common.text import counted
from fullconv.protos import model_pb2

LEAST_AGREEMENT = 0.9
"""Share of windows with the same top class, below which an answer warns that dense is not exact."""
LEAST_RARER_WINDOWS = 5
"""Smallest number of windows of rarer classes whose agreement is considered."""
LEAST_WINDOWS = 16
"""Smallest number of windows whose agreement shows that dense has the classifier's own top class."""
NORMAL_QUANTILE = 1.959964
"""97.5 % quantile of the normal distribution: half the width of a 95 % interval, in standard deviations."""


def interval(agreement: float, windows: int) -> tuple[float, float]:
    """Return the 95 % confidence interval (Wilson score interval) of a share measured on a number of windows."""
    square = NORMAL_QUANTILE**2
    centre = (agreement + square / (2 * windows)) / (1 + square / windows)
    variance = agreement * (1 - agreement) / windows + square / (4 * windows**2)
    half = NORMAL_QUANTILE * math.sqrt(variance) / (1 + square / windows)
    return max(0.0, min(agreement, centre - half)), min(1.0, max(agreement, centre + half))


def has_top_class(output: model_pb2.Output) -> bool:
    """Return whether the highest score names a class, which it does not for regression or a single score."""
    return output.kind != "raw" and output.classes > 1


def overall(spec: model_pb2.ModelSpec, position: int) -> model_pb2.Difference:
    """Return the difference of dense from crops over all compared windows, at one of the model's strides.

    `position` is the stride's position in the spec. If the certificate records only interior and border cells
    separately, the two are combined, without the 99th percentile. The agreement and its interval are 0 for a model
    whose scores name no top class.
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
        for name in ("top_class_agreement", "agreement_low", "agreement_high", "rarer_windows", "rarer_agreement"):
            whole.ClearField(name)
    return whole


def is_warning(seen: model_pb2.Difference) -> bool:
    """Return whether a dense answer must warn.

    The top class agrees too rarely, this was measured on too few windows or on windows of one class, or the scores name
    no top class.
    """
    if not seen.agreement_high or seen.top_class_agreement < LEAST_AGREEMENT:
        return True
    return _loses_rarer_classes(seen) or bool(missing_evidence(seen))


def missing_evidence(seen: model_pb2.Difference) -> str:
    """Return the reason why a high agreement of the top class shows nothing; empty if it shows something."""
    if not seen.agreement_high or seen.top_class_agreement < LEAST_AGREEMENT:
        return ""
    if seen.windows < LEAST_WINDOWS:
        return f"{counted(seen.windows, 'window')} {'is' if seen.windows == 1 else 'are'} too few to tell"
    if not seen.rarer_windows:
        return f"all {seen.windows} windows have the same top class, so that their agreement shows nothing"
    return ""


def _loses_rarer_classes(seen: model_pb2.Difference) -> bool:
    """Return whether the top class agrees often enough only because most windows have one class, the background."""
    if seen.rarer_windows < LEAST_RARER_WINDOWS or seen.top_class_agreement < LEAST_AGREEMENT:
        return False
    return interval(seen.rarer_agreement, seen.rarer_windows)[1] < LEAST_AGREEMENT


def sentence(spec: model_pb2.ModelSpec, position: int, exact: float, dense: float, on: str = "") -> str:
    """Return a sentence on how far dense agrees with crops at one stride of a model that is not exact, and the cost.

    `exact` and `dense` are the multiply-adds of mode exact and of mode dense; `on` names the image, after a space. If
    the network has reduced precision and reads nothing beyond its window, crops are no better, and the sentence says
    so.
    """
    seen = overall(spec, position)
    if seen.agreement_high:
        said = f"dense names the classifier's own top class on {agreement(seen)}"
    else:
        said = (
            f"dense scores differ from the classifier's own by {seen.median_abs:.2g} (median) and {seen.max_abs:.2g} "
            f"(largest seen on {counted(seen.windows, 'window')})"
        )
    reduced = spec.precision not in ("", "fp32")
    if reduced and not _reads_beyond(spec):
        return f"{said}; the cause is {spec.precision}, and --mode crops has the same difference"
    own = f"the classifier's own answers in {spec.precision}" if reduced else "the classifier's own answers"
    return f"{said}; --mode exact gives {own} for {_times(exact, dense)} the compute{on}"


def cut_margins_sentence(file: model_pb2.SharedFile) -> str:
    """Return at how many cells a file's margins are cut off, and how often its top class is the classifier's own."""
    said = f"margins are cut off at {counted(file.margin_limit, 'cell')}"
    if not file.difference.agreement_high:
        return said
    return f"{said}; the top class agrees with the classifier's on {agreement(file.difference)}"


def agreement(seen: model_pb2.Difference) -> str:
    """Return the share of windows with the same top class and its interval: "49 % of windows (45 to 53 %)".

    If this share is high only because of the most frequent class, the share among the other windows follows. If it
    shows nothing, the reason follows.
    """
    said = share_of_windows(seen.top_class_agreement, (seen.agreement_low, seen.agreement_high))
    if reason := missing_evidence(seen):
        return f"{said}, but {reason}"
    if not _loses_rarer_classes(seen):
        return said
    share = _percent(seen.rarer_agreement)
    return f"{said}, but on only {share} % of the {seen.rarer_windows} windows that do not have the most frequent class"


def share_of_windows(share: float, limits: tuple[float, float]) -> str:
    """Return a share of windows, 0 to 1, and the limits of its confidence interval: "49 % of windows (45 to 53 %)"."""
    low, high = map(_percent, limits)
    return f"{_percent(share)} % of windows ({low} to {high} %)"


def _reads_beyond(spec: model_pb2.ModelSpec) -> bool:
    """Return whether a cell reads anything beyond its window."""
    axes = ((spec.vertical, spec.window.height), (spec.horizontal, spec.window.width))
    return any(
        axis.padding_before > 0 or reach_after(window, axis.receptive_field, axis.padding_before) > 0
        for axis, window in axes
    )


def _percent(share: float) -> str:
    """Return a share in percent, rounded, but to 0 or 100 only if the share is exactly 0 or 1."""
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.1f}"
    return f"{100 * share:.0f}"


def _times(exact: float, dense: float) -> str:
    factor = exact / dense if dense else 1.0  # a network of pools alone has no multiply-adds
    return f"{factor:.0f} times" if factor >= 9.5 else f"{factor:.2g} times"
