"""The result of an image from the means of its views."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.dense.reducers import Mean, ViewMeans, argsort_descending
from service.scoring.masking import check_any_scored
from service.scoring.outcome import AreaAverage, Result, Timing
from service.scoring.planned import PlannedImage


def make_result(planned: PlannedImage, views: Sequence[ViewMeans], timing: Timing) -> Result:
    """Return the averages over all views; raises ImageError if no window was scored.

    A view whose mirrored image is scored too has two means, one after the other.
    """
    check_any_scored(planned, [means.all.cells for means in views])
    average = _over_views(planned, [means.all for means in views])
    areas = tuple(
        AreaAverage(area.name, views[0].areas[at].cells, _over_views(planned, [means.areas[at] for means in views]))
        for at, area in enumerate(planned.areas)
    )
    top = tuple(argsort_descending(average, planned.options.requested.top))
    return Result(average, top, views[0].all.cells, timing, areas)


def _over_views(planned: PlannedImage, means: Iterable[Mean]) -> NDArray[np.float64]:
    """Return the average of the views with cells, (classes,) in the order of the answer; else empty."""
    values = [mean.value for mean in means if mean.cells]
    if not values:
        return np.empty(0)
    average = values[0] if len(values) == 1 else np.mean(values, axis=0)
    options = planned.options
    return average if options.has_all_classes else average[list(options.classes)]
