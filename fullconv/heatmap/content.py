"""The content that is drawn over the image: values and their colours, outlined regions, and the legend."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from fullconv.blocks import NO_INDEX
from fullconv.common.probabilities import RAW
from fullconv.common.text import counted, printable
from fullconv.heatmap.cells import SingleClass, Winners
from fullconv.heatmap.paint import Scale, even_scale, rising_scale
from fullconv.style import HeatmapStyle

LABEL_LETTERS = 24
"""Largest number of characters of a label."""
Colour = tuple[float, float, float, float]
OUTLINES: list[Colour] = [colormaps["tab10"](index) for index in range(10)]
BLACK: Colour = (0.0, 0.0, 0.0, 1.0)
INVISIBLE: Colour = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Outlined:
    """Blocks (rows, cols) that are outlined in a colour; a label that is not empty stands beside every region."""

    mask: NDArray[np.bool_]
    colour: Colour
    label: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a heatmap: NaN in `values` (blocks down, blocks across) is not painted."""

    values: NDArray[np.float32]
    scale: Scale | None
    """None: nothing is painted."""
    outlined: list[Outlined]
    title: str
    """Title of the legend."""
    legend: list[tuple[Colour, str]]


def single_class_content(cells: SingleClass, label: str, style: HeatmapStyle) -> Content:
    """Return the content for one class: its probability from 0 to 1, or its score from the lowest to the highest."""
    name, raw = shortened(label), cells.kind == RAW
    values = _reaching(cells.value, style)
    outlined, legend = [], [(INVISIBLE, counted(cells.scored, "cell"))]
    if style.threshold is not None or not raw:
        outlined = [Outlined(cells.value >= cells.threshold, BLACK)]
        legend = [(BLACK, f"{cells.threshold:g} or more:\n{cells.present} of {counted(cells.scored, 'cell')}")]
    ends = _ends(values) if raw else (0.0, 1.0)
    mark = cells.threshold if not raw and 0 <= cells.threshold <= 1 else None
    scale = None if ends is None else rising_scale(*ends, f"{'score' if raw else 'probability'} of {name}", mark, style)
    return Content(values, scale, outlined, name, legend)


def winners_content(cells: Winners, labels: list[str], style: HeatmapStyle) -> Content:
    """Return the content for the winning classes, of which the most common is not painted.

    `labels` are in the order of `cells.columns`.
    """
    counts = cells.counts
    common = int(counts.argmax()) if counts.any() else NO_INDEX
    order = [int(at) for at in np.argsort(-cells.present, kind="stable") if cells.present[at] and at != common]
    values = _reaching(np.where(cells.winner == common, np.float32(np.nan), cells.value), style)
    shown, others = order[: len(OUTLINES)], order[len(OUTLINES) :]
    legend, outlined = [], []
    if common != NO_INDEX:
        legend.append((INVISIBLE, f"{shortened(labels[common])}  ({counts[common]}),\nnot painted"))
    for position, colour in zip(shown, OUTLINES, strict=False):
        name = shortened(labels[position])
        outlined.append(Outlined((cells.winner == position) & ~np.isnan(values), colour, name))
        legend.append((colour, f"{name}  ({cells.present[position]})"))
    if others:
        legend.append((INVISIBLE, f"{counted(len(others), 'other')}  ({cells.present[others].sum()})"))
    title = "winning class (cells)"
    if style.threshold is not None:
        title = f"winning class (cells\nwith {style.threshold:g} or more)"
    return Content(values, _scale(values, style, probabilities=cells.kind is not None), outlined, title, legend)


def _reaching(values: NDArray[np.float32], style: HeatmapStyle) -> NDArray[np.float32]:
    """Return the values that reach the threshold of the style, NaN in place of others."""
    return values if style.threshold is None else np.where(values >= style.threshold, values, np.float32(np.nan))


def _scale(values: NDArray[np.float32], style: HeatmapStyle, *, probabilities: bool) -> Scale | None:
    """Return the scale of the winners: from 0 to 1, or from the lowest to the highest score that is painted."""
    if probabilities:
        return even_scale(0, 1, "probability of the winning class", style)
    ends = _ends(values)
    return None if ends is None else even_scale(*ends, "score of the winning class", style)


def _ends(values: NDArray[np.float32]) -> tuple[float, float] | None:
    """Return the lowest and the highest value, moved apart if they are equal; None if there is no value."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    low, high = float(known.min()), float(known.max())
    apart = 0.0 if high > low else max(1.0, abs(low))
    return low - apart, high + apart


def shortened(label: str) -> str:
    """Return a label on one printable line, cut if it is long."""
    line = printable(" ".join(label.split()))
    return line if len(line) <= LABEL_LETTERS else f"{line[: LABEL_LETTERS - 1].rstrip()}…"
