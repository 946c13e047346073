"""The content that is drawn over the image: values and their colours, outlined regions, and the legend."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from fullconv.blocks import NO_INDEX
from fullconv.common.probabilities import RAW
from fullconv.common.text import printable
from fullconv.heatmap.cells import THRESHOLD, SingleClass, Winners
from fullconv.heatmap.paint import Scale, even_scale, rising_scale

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


def single_class_content(cells: SingleClass, label: str) -> Content:
    """Return the content for one class: its probability from 0 to 1, or its score from the lowest to the highest."""
    name = shortened(label)
    if cells.kind == RAW:
        ends = _ends(cells.value)
        scale = None if ends is None else rising_scale(*ends, f"score of {name}", None)
        return Content(cells.value, scale, [], name, [(INVISIBLE, f"{cells.scored} cells")])
    outlined = [Outlined(cells.value >= THRESHOLD, BLACK)]
    legend = [(BLACK, f"{THRESHOLD} or more:\n{cells.present} of {cells.scored} cells")]
    return Content(cells.value, rising_scale(0, 1, f"probability of {name}", THRESHOLD), outlined, name, legend)


def winners_content(cells: Winners, labels: list[str]) -> Content:
    """Return the content for the winning classes, of which the most common is not painted.

    `labels` are in the order of `cells.columns`.
    """
    counts = cells.counts
    order = [int(position) for position in np.argsort(-counts, kind="stable") if counts[position]]
    common = order[0] if order else NO_INDEX
    values = np.where(cells.winner == common, np.float32(np.nan), cells.value)
    shown, others = order[1 : len(OUTLINES) + 1], order[len(OUTLINES) + 1 :]
    legend = [(INVISIBLE, f"{shortened(labels[common])}  ({counts[common]}),\nnot painted")] if order else []
    outlined = []
    for position, colour in zip(shown, OUTLINES, strict=False):
        name = shortened(labels[position])
        outlined.append(Outlined(cells.winner == position, colour, name))
        legend.append((colour, f"{name}  ({counts[position]})"))
    if others:
        legend.append((INVISIBLE, f"{len(others)} others  ({counts[others].sum()})"))
    return Content(
        values, _scale(values, probabilities=cells.kind is not None), outlined, "winning class (cells)", legend
    )


def _scale(values: NDArray[np.float32], *, probabilities: bool) -> Scale | None:
    """Return the scale of the winners: from 0 to 1, or from the lowest to the highest score that is painted."""
    if probabilities:
        return even_scale(0, 1, "probability of the winning class")
    ends = _ends(values)
    return None if ends is None else even_scale(*ends, "score of the winning class")


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
