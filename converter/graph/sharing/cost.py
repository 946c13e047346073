"""The cost of a network whose windows share, as factors of a bilinear form.

For m × n windows that are s and t pixels apart, a layer whose cells are S pixels apart, and whose margins are `near`
and `far` cells of `size`, computes along the vertical axis

    (m − 1)s / S  +  size − near − far  +  m(near + far)        cells

which are those of the dense map and of the margins of every window, and along the horizontal axis likewise. If margins
are cut off, the dense map has `size` cells for the first window. The factors belong to (m − 1)s, 1 and m, and to
(n − 1)t, 1 and n.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from converter.graph.sharing.margins import AxisMargins
from converter.graph.sharing.parts import Parts
from converter.graph.sharing.states import State
from fullconv.common.sharing import bilinear, per_window, shared_effort

FLOAT_BYTES = 4
COPIES = 1.5
"""Bytes of activations, relative to those of the values that a layer reads and returns: parts are cut and joined."""


def _zeros() -> NDArray[np.float64]:
    return np.zeros((3, 3))


@dataclass
class SharedCost:
    """Factors (3, 3) of multiply-adds and of bytes.

    `moved_bytes` are those that are moved because windows share; `activation_bytes` is an upper bound.
    """

    multiply_adds: NDArray[np.float64] = field(default_factory=_zeros)
    moved_bytes: NDArray[np.float64] = field(default_factory=_zeros)
    activation_bytes: NDArray[np.float64] = field(default_factory=_zeros)
    window_bytes: float = 0.0
    """Bytes that the layers of one window by itself read and return."""

    def count(self, each: float, state: State) -> None:
        """Count a layer with `each` multiply-adds for each cell of its output."""
        self.multiply_adds += each * _cells(state)

    def move(self, *states: State) -> None:
        """Count values that are cut out and put together."""
        self.moved_bytes += sum((FLOAT_BYTES * state.channels * _cells(state) for state in states), _zeros())

    def pass_window(self, *states: State) -> None:
        """Count what a layer reads and returns for one window by itself."""
        self.window_bytes += sum(FLOAT_BYTES * state.channels * math.prod(state.size) for state in states)

    def hold(self, states: Iterable[State]) -> None:
        """Count values that are in memory at the same time."""
        held = sum((FLOAT_BYTES * COPIES * state.channels * _cells(state) for state in states), _zeros())
        self.activation_bytes = np.maximum(self.activation_bytes, held)

    def of(self, windows: tuple[int, int], stride: tuple[int, int]) -> float:
        """Return the multiply-adds of rows × columns of windows at a stride in pixels."""
        down, across = (((count - 1) * step, 1, count) for count, step in zip(windows, stride, strict=True))
        return bilinear(self.multiply_adds.ravel().tolist(), down, across)

    def effort_per_window(self, stride: tuple[int, int]) -> float:
        """Return the cost for each window of a large image in multiply-adds, with the time in which bytes are moved."""
        counted, moved = (per_window(each.ravel().tolist(), stride) for each in (self.multiply_adds, self.moved_bytes))
        return shared_effort(counted, moved)


def _cells(state: State) -> NDArray[np.float64]:
    """Return the number of cells of a value, as factors."""
    if isinstance(state, Parts):
        return np.outer(_along(state.vertical), _along(state.horizontal))
    cells = _zeros()
    cells[2, 2] = math.prod(state.size)
    return cells


def _along(axis: AxisMargins) -> tuple[float, float, float]:
    margins = axis.near + axis.far
    return 1 / axis.stride, axis.size - (margins if axis.limit is None else 0), margins
