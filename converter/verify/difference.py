"""Figures of the difference between the outputs of two networks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter.verify.networks import NetworkOutput
from fullconv.common import difference as of_scores
from fullconv.protos import model_pb2


def difference(
    reference: Sequence[NetworkOutput], got: Sequence[NetworkOutput], *, has_top_class: bool
) -> model_pb2.Difference:
    """Return the differences of `got` from `reference`, the outputs of two networks for the same windows.

    Without `has_top_class` the agreement of the top class is left out, because the scores name no class.
    """
    if not reference:
        return model_pb2.Difference()
    expected, found = (
        np.concatenate([output.scores.reshape(-1, output.scores.shape[-1]) for output in outputs], dtype=np.float64)
        for outputs in (reference, got)
    )
    decisions = None
    if has_top_class:
        one, other = (np.concatenate([_decisions(output) for output in outputs]) for outputs in (reference, got))
        decisions = one, other
    return of_scores.difference(expected, found, decisions)


def _decisions(output: NetworkOutput) -> NDArray[np.int64]:
    """Return each cell's top class; for a single class whether it is present, which means a positive logit."""
    logits = output.logits.reshape(-1, output.logits.shape[-1])
    return logits.argmax(-1) if logits.shape[-1] > 1 else (logits[:, 0] > 0).astype(np.int64)
