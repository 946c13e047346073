"""Figures of the difference between two networks' scores of the same windows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter.verify.networks import NetworkOutput
from fullconv.common.certificate import interval
from fullconv.protos import model_pb2

HIGH_PERCENTILE = 99
"""Percentile of the differences that is reported beside the median and the maximum."""


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
    distances = np.abs(expected - found)
    norm = float(np.linalg.norm(expected))
    result = model_pb2.Difference(
        windows=len(expected),
        max_abs=float(distances.max()),
        median_abs=float(np.median(distances)),
        p99_abs=float(np.percentile(distances, HIGH_PERCENTILE)),
        relative_l2=float(np.linalg.norm(distances)) / norm if norm else 0.0,
    )
    if has_top_class:
        one, other = (np.concatenate([_decisions(output) for output in outputs]) for outputs in (reference, got))
        result.top_class_agreement = float((one == other).mean())
        result.agreement_low, result.agreement_high = interval(result.top_class_agreement, result.windows)
        is_rarer = one != np.bincount(one).argmax()
        result.rarer_windows = int(np.count_nonzero(is_rarer))
        result.rarer_agreement = float((one == other)[is_rarer].mean()) if result.rarer_windows else 0.0
    return result


def _decisions(output: NetworkOutput) -> NDArray[np.int64]:
    """Return each cell's top class; for a single class whether it is present, which means a positive logit."""
    logits = output.logits.reshape(-1, output.logits.shape[-1])
    return logits.argmax(-1) if logits.shape[-1] > 1 else (logits[:, 0] > 0).astype(np.int64)
