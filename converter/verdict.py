"""A certificate in words: the figures of the compared windows, and the reasons why dense and crops differ."""

from fullconv.common.certificate import (
    agreement,
    cut_margins_sentence,
    is_warning,
    missing_evidence,
    overall,
    sentence,
)
from fullconv.common.geometry import reach_after
from fullconv.common.sharing import per_window
from fullconv.common.text import counted
from fullconv.protos import model_pb2


def verdict(spec: model_pb2.ModelSpec, position: int) -> str:
    """Return the certificate of one stride in words, with the figures of the windows that were compared."""
    parity, seen = spec.parity[position], overall(spec, position)
    windows = f"{counted(seen.windows, 'window')} of {counted(parity.images, 'image')}"
    if parity.exact:
        return f"exact: dense equals crops up to rounding (largest difference seen {seen.max_abs:.1e}, {windows})"
    said = "dense differs from the source network's crops" if parity.precision.windows else "dense differs from crops"
    reason = reads_beyond(spec)
    parts = [f"{said}, since {reason}" if reason else said]
    if seen.agreement_high:
        parts[0] += f": the top class agrees on {agreement(seen)}"
    parts.append(f"{_differences(seen)}, on {windows}")
    if parity.small_images:
        which = "all" if parity.small_images == parity.images else str(parity.small_images)
        parts.append(f"{which} of them too small to hold a window that is not at the border")
    return "; ".join(parts)


def precision_verdict(spec: model_pb2.ModelSpec, position: int) -> str:
    """Return the effect of reduced precision, in words."""
    measured = spec.parity[position].precision
    figures = f"{_differences(measured)}, on {counted(measured.windows, 'window')}"
    if not measured.agreement_high:
        return figures
    what = "the top class" if spec.output.classes > 1 else "the decision at one half"
    windows = counted(measured.windows, "window")
    return f"{what} is that of fp32 on {measured.top_class_agreement:.2%} of {windows}; {figures}"


def recommendation(spec: model_pb2.ModelSpec) -> str:
    """Return how exact dense is at the native stride, and the recommended mode."""
    if spec.modes[0] == "crops":
        return "Recommended: --mode auto, which runs every window by itself."
    if spec.parity[0].exact:
        return "Dense gives the classifier's own answers. Recommended: --mode auto, which chooses the cheaper mode."
    cost = spec.cost[0]
    said = sentence(spec, 0, exact_multiply_adds(spec), cost.multiply_adds_per_cell, " on a large image")
    said = said[0].upper() + said[1:]
    seen = overall(spec, 0)
    if not seen.agreement_high:
        return (
            f"{said}. Recommended: --mode auto, which is dense, if such differences do not matter; otherwise --mode "
            "exact."
        )
    if missing_evidence(seen) and reads_beyond(spec):
        return f"{said}. Recommended: --mode exact, until more images, of several classes, are compared (--images DIR)."
    if is_warning(seen) and reads_beyond(spec):
        return f"{said}. Recommended: --mode exact."
    return f"{said}. Recommended: --mode auto, which is dense."


def margins_verdict(spec: model_pb2.ModelSpec, file: model_pb2.SharedFile) -> str:
    """Return the certificate of a file of mode shared whose margins are cut off, in words."""
    seen, stride = file.difference, file.multiple_of
    times = exact_multiply_adds(spec) / shared_multiply_adds(file, stride)
    said = f"{cut_margins_sentence(file)}; {_differences(seen)}, on {counted(seen.windows, 'window')}"
    return f"{said}; mode exact needs {times:.2g} times the multiply-adds"


def shared_multiply_adds(file: model_pb2.SharedFile, stride: model_pb2.Size) -> float:
    """Return the multiply-adds for each window of a large image in mode shared, at a stride."""
    return per_window(file.multiply_adds, (stride.height, stride.width))


def exact_multiply_adds(spec: model_pb2.ModelSpec) -> float:
    """Return the multiply-adds for each window of a large image in mode exact, at the native stride."""
    stride = spec.strides[0].stride
    whole = [file for file in spec.shared if not file.margin_limit]
    fitting = [file for file in whole if not stride.height % file.multiple_of.height]
    fitting = [file for file in fitting if not stride.width % file.multiple_of.width]
    return min([spec.cost[0].multiply_adds_per_crop, *(shared_multiply_adds(file, stride) for file in fitting)])


def reads_beyond(spec: model_pb2.ModelSpec) -> str:
    """Return a phrase on the pixels beyond its window that a cell reads by the geometry; empty if it reads none."""
    axes = ((spec.vertical, spec.window.height), (spec.horizontal, spec.window.width))
    before = max(axis.padding_before for axis, _ in axes)
    after = max(reach_after(window, axis.receptive_field, axis.padding_before) for axis, window in axes)
    if before:
        return f"the network is padded (a cell reads {counted(before, 'pixel')} before its window and {after} after it)"
    return f"a cell reads {counted(after, 'pixel')} beyond the end of its window" if after else ""


def _differences(seen: model_pb2.Difference) -> str:
    tail = f", {seen.p99_abs:.2g} (99th percentile)" if seen.p99_abs else ""
    return (
        f"scores differ by {seen.median_abs:.2g} (median){tail} and {seen.max_abs:.2g} (largest seen), "
        f"{seen.relative_l2:.2g} in relative L2 norm"
    )
