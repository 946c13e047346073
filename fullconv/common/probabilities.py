"""Probabilities of classes from a network's scores."""

import numpy as np
from numpy.typing import NDArray


def probabilities(scores: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Convert scores (..., classes) into probabilities of the same shape; `kind` is ModelSpec.output.kind.

    Raises ValueError for a kind that has no probabilities.
    """
    match kind:
        case "probabilities":
            return scores
        case "logits-softmax":
            powers: NDArray[np.float32] = np.exp(scores - scores.max(axis=-1, keepdims=True))
            powers /= powers.sum(axis=-1, keepdims=True)
            return powers
        case "logits-sigmoid":
            sigmoid: NDArray[np.float32] = np.float32(0.5) * (1 + np.tanh(scores / 2))
            return sigmoid
        case _:
            raise ValueError(f"expected an output kind that has probabilities, got {kind!r}")
