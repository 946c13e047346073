"""Figures of the difference between two networks' scores of the same windows."""

import numpy as np
from numpy.typing import NDArray

from fullconv.common.certificate import interval
from fullconv.protos import model_pb2

HIGH_PERCENTILE = 99
"""Percentile of the differences that is reported beside the median and the maximum."""


def difference(
    expected: NDArray[np.floating],
    got: NDArray[np.floating],
    decisions: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> model_pb2.Difference:
    """Return the differences of `got` from `expected`, each (windows, classes).

    `decisions` are each window's top class, or whether a single class is present, by both networks, (windows,).
    Default: the agreement of the top class is left out, because the scores name no class.
    """
    if not len(expected):
        return model_pb2.Difference()
    expected = expected.astype(np.float64)
    distances, norm = np.abs(expected - got), float(np.linalg.norm(expected))
    result = model_pb2.Difference(
        windows=len(expected),
        max_abs=float(distances.max()),
        median_abs=float(np.median(distances)),
        p99_abs=float(np.percentile(distances, HIGH_PERCENTILE)),
        relative_l2=float(np.linalg.norm(distances)) / norm if norm else 0.0,
    )
    if decisions is not None:
        one, other = decisions
        result.top_class_agreement = float((one == other).mean())
        result.agreement_low, result.agreement_high = interval(result.top_class_agreement, result.windows)
        is_rarer = one != np.bincount(one).argmax()
        result.rarer_windows = int(np.count_nonzero(is_rarer))
        result.rarer_agreement = float((one == other)[is_rarer].mean()) if result.rarer_windows else 0.0
    return result
