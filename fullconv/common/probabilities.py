"""Probabilities of classes from a network's scores."""

import numpy as np
from numpy.typing import NDArray

SOFTMAX, SIGMOID, PROBABILITIES, RAW = "logits-softmax", "logits-sigmoid", "probabilities", "raw"
"""The kinds of scores, as ModelSpec.output.kind states them."""


def probabilities(scores: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Convert scores (..., classes) into probabilities of the same shape; `kind` is ModelSpec.output.kind.

    Raises ValueError for a kind that has no probabilities.
    """
    if kind == PROBABILITIES:
        return scores
    if kind == SOFTMAX:
        powers: NDArray[np.float32] = np.exp(scores - scores.max(axis=-1, keepdims=True))
        powers /= powers.sum(axis=-1, keepdims=True)
        return powers
    if kind == SIGMOID:
        return _sigmoid(scores)
    raise ValueError(f"expected an output kind that has probabilities, got {kind!r}")


def probability(scores: NDArray[np.floating], column: int | NDArray[np.intp], kind: str) -> NDArray[np.float32]:
    """Return the probability of one column, or of one column for each cell, (rows, cols).

    `kind` says what the scores (rows, cols, classes) are; those without probabilities are returned as they are.
    """
    column = np.broadcast_to(column, scores.shape[:2])[..., None]
    one = np.take_along_axis(scores, column, axis=-1)[..., 0].astype(np.float32)
    if kind == SOFTMAX:
        highest = scores.max(axis=-1)
        powers = np.exp(scores - highest[..., None])
        softmax: NDArray[np.float32] = np.exp(one - highest) / powers.sum(axis=-1)
        return softmax
    return _sigmoid(one) if kind == SIGMOID else one


def _sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logistic function without overflow."""
    result: NDArray[np.float32] = np.float32(0.5) * (1 + np.tanh(scores / 2))
    return result
