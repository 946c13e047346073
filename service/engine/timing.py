"""Times functions in turn, so that their durations can be compared."""

import time
from collections.abc import Callable, Mapping

ROUNDS = 3
"""Number of measurements of each run, of which the fastest counts: any run may have waited for a processor."""


def alternating_times(runs: Mapping[int, Callable[[], object]]) -> dict[int, list[float]]:
    """Return the times in seconds that each run takes; the runs alternate."""
    times: dict[int, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.monotonic()
            run()
            times[name].append(time.monotonic() - started)
    return times
