"""How far two networks' scores of the same windows lie apart, in figures of what was seen."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter.verify.networks import Scored
from fullconv.common.certificate import interval
from fullconv.protos import model_pb2

NEARLY_ALL = 99
"""Percentile of the differences beside the median and the largest."""


def difference(reference: Sequence[Scored], got: Sequence[Scored], *, ranked: bool) -> model_pb2.Difference:
    """Compare what two networks say of the same windows; the first is what the second should say.

    `ranked` says whether the top class means anything; if not, its agreement is left out.
    """
    if not reference:
        return model_pb2.Difference()
    expected, found = (
        np.concatenate([scored.scores.reshape(-1, scored.scores.shape[-1]) for scored in scores], dtype=np.float64)
        for scores in (reference, got)
    )
    apart = np.abs(expected - found)
    norm = float(np.linalg.norm(expected))
    result = model_pb2.Difference(
        windows=len(expected),
        max_abs=float(apart.max()),
        median_abs=float(np.median(apart)),
        p99_abs=float(np.percentile(apart, NEARLY_ALL)),
        relative_l2=float(np.linalg.norm(apart)) / norm if norm else 0.0,
    )
    if ranked:
        one, other = (np.concatenate([_decisions(scored) for scored in scores]) for scores in (reference, got))
        result.top_class_agreement = float((one == other).mean())
        result.agreement_low, result.agreement_high = interval(result.top_class_agreement, result.windows)
    return result


def _decisions(scored: Scored) -> NDArray[np.int64]:
    """Each cell's top class; of a single one, whether it is there: beyond 0 before a sigmoid."""
    evidence = scored.evidence.reshape(-1, scored.evidence.shape[-1])
    return evidence.argmax(-1) if evidence.shape[-1] > 1 else (evidence[:, 0] > 0).astype(np.int64)
