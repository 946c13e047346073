"""Finds networks that do not score each window of a batch by itself.

Such a network computes, for example, (x - x.mean()) / x.std() over all its windows, a softmax over the batch axis, or
the scores of a fixed number of windows. The scores of a window must be those that the window has alone.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from converter.errors import UnsupportedError
from converter.runtime import session

TOLERANCE = 1e-3
"""Largest difference that counts as rounding, relative to the largest value."""
LARGEST_VALUES = (1, 255)
"""The largest values of the windows: of prepared images, and of pixels."""
CONTRAST = 0.25
"""Values of the other windows of a batch, relative to those of the first window."""

Array = NDArray[np.generic]


def scored_batch(model: ir.Model, shape: tuple[int, ...], scratch: Path) -> int | str:
    """Return the batch axis that a network must state: its own fixed number, 1 if it mixes the windows, or "N".

    `shape` is that of a batch of windows. Raises UnsupportedError for a network that mixes the windows of a batch of
    fixed size.
    """
    image = model.graph.inputs[0]
    assert image.shape is not None  # noqa: S101 (readers check it)
    fixed = image.shape[0]
    if fixed == 1:
        return 1
    loaded = session(model, scratch)
    mixes = any(_mixes(loaded, image, shape, largest) for largest in LARGEST_VALUES)
    if not isinstance(fixed, int):
        return 1 if mixes else "N"
    if mixes:
        raise UnsupportedError(
            f"input {image.name!r}: expected a network that scores each window by itself, got one whose scores of a "
            f"window depend on the other {fixed - 1} windows of the batch; export it with a batch of 1"
        )
    return fixed


def _mixes(loaded: ort.InferenceSession, image: ir.Value, shape: tuple[int, ...], largest: int) -> bool:
    """Return whether the outputs for a window change with the other windows of its batch, or with their number."""
    assert image.shape is not None  # noqa: S101 (readers check it)
    assert image.dtype is not None  # noqa: S101
    fixed = image.shape[0] if isinstance(image.shape[0], int) else None
    numbers = np.random.default_rng(0).uniform(0, largest, shape[1:])
    first, other = (part.astype(image.dtype.numpy()) for part in (numbers, numbers[::-1] * CONTRAST))
    others = (fixed or 2) - 1
    batches = [[first, *[first] * others], [first, *[other] * others], *([] if fixed else [[first]])]
    try:
        expected, *outputs = [
            [_of_first(array, batch) for array in loaded.run(None, {str(image.name): np.stack(batch)})]
            for batch in batches
        ]
    except Exception:  # ONNX Runtime raises errors of its own classes, also for a batch of 2 in a network for 1 window
        return fixed is None
    return not all(_are_equal(*pair) for got in outputs for pair in zip(got, expected, strict=True))


def _of_first(output: Array, batch: list[Array]) -> Array:
    """Return the values of an output for the first window of a batch."""
    return output.ravel()[: output.size // len(batch)]


def _are_equal(got: Array, expected: Array) -> bool:
    """Return whether two arrays differ by no more than rounding."""
    if got.shape != expected.shape:
        return False
    allowed = TOLERANCE * float(np.abs(np.nan_to_num(expected)).max(initial=0))
    return bool(np.allclose(got, expected, rtol=0, atol=allowed, equal_nan=True))
