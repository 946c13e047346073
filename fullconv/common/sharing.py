"""The cost of mode shared, on which converter and service must agree.

Costs are bilinear: for m × n windows that are s and t pixels apart, the sum of factor[3i + j] · down[i] · across[j]
with down = ((m − 1)s, 1, m) and across = ((n − 1)t, 1, n).
"""

from collections.abc import Sequence

MOVED_BYTE, WINDOW_BYTE = 70.0, 3.0
"""Multiply-adds that take about as long as one byte that a layer of mode shared cuts out or puts together, and as one
byte that a layer of mode crops reads or returns.

With these, the predicted ratios of the two modes are 0.73 to 1.18 times the measured ones, in 18 runs of 15 networks
of torchvision with ONNX Runtime on two cores.
"""
EACH_WINDOW = 2e6
"""Multiply-adds that take about as long as cutting out one window and calling the runtime for it."""
LEAST_GAIN = 1.05
"""Predicted cost of crops, relative to that of mode shared, from which on mode shared counts as cheaper."""


def bilinear(factors: Sequence[float], down: Sequence[float], across: Sequence[float]) -> float:
    """Return a cost, given its nine factors and three terms along each axis."""
    return sum(factors[3 * i + j] * down[i] * across[j] for i in range(3) for j in range(3))


def per_window(factors: Sequence[float], stride: tuple[int, int]) -> float:
    """Return a cost for each window of a large image, at a stride in pixels."""
    return bilinear(factors, (stride[0], 0, 1), (stride[1], 0, 1))


def shared_effort(multiply_adds: float, moved_bytes: float) -> float:
    """Return the predicted cost of mode shared in multiply-adds, for the comparison with `crops_effort`."""
    return LEAST_GAIN * (multiply_adds + MOVED_BYTE * moved_bytes)


def crops_effort(multiply_adds: float, window_bytes: float) -> float:
    """Return the predicted cost of one window in mode crops in multiply-adds.

    `window_bytes` are the bytes that all layers read and return.
    """
    return EACH_WINDOW + multiply_adds + WINDOW_BYTE * window_bytes
