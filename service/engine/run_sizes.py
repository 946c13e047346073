"""Measures how a session computes windows fastest: how many in one run, and how many runs at the same time.

A larger batch needs fewer runs. Beyond some size its feature maps no longer fit into the processor's caches. Runs at
the same time can use processors that wait within each run; large networks leave none.
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

from service import machine
from service.engine import measurement_cache
from service.engine.session import RunSizes, Session

BATCHES = (1, 2, 4, 8, 16, 32)
"""Numbers of windows in one run that are measured."""
CONCURRENT = (2, 4, 8)
"""Numbers of runs at the same time that are measured, as long as each is better than the one before."""
MAX_CONCURRENT = CONCURRENT[-1]
MAX_RUN_SECONDS = 0.1
"""Predicted duration of a run up to which it is measured."""
SHORT_RUN_SECONDS = 0.02
"""Duration of a run up to which runs at the same time are measured: in longer ones, processors hardly wait."""
ROUNDS, RUNS = 3, 4
"""Number of measurements, of which the fastest counts, and number of runs of each of the concurrent threads."""
SAME = 1.03
"""Time of a batch for each window, relative to that of the best batch, up to which the larger batch is taken: each
batch costs the scheduler some time too."""
MIN_GAIN = 1.15
"""Times as many windows per second that further concurrent runs must give."""


KIND = "runs"


def run_sizes(session: Session, threads: int | None) -> RunSizes:
    """Return how a session that has measured its rate computes fastest in `threads` threads.

    The first time on a machine this is measured, which takes a second for large networks.
    """
    key = measurement_cache.key(session.model, session.position, threads, str(session.backend))
    kept = measurement_cache.read(KIND, key)
    if (
        isinstance(kept, dict)
        and kept.keys() == {"pixels", "concurrent"}
        and all(isinstance(value, int) and value > 0 for value in kept.values())
    ):
        return RunSizes(**kept)
    window = session.model.spec.window
    batch = session.fixed_batch or _best_batch(session)
    found = RunSizes(batch * window.height * window.width, _best_concurrency(session, batch))
    measurement_cache.write(KIND, key, asdict(found))
    return found


def _best_batch(session: Session) -> int:
    """Return the largest number of windows that takes hardly more time for each window than the best number."""
    grey, window = session.grey_window(), session.model.spec.window
    one = session.predict_tile_seconds(window.height, window.width)
    batches = [batch for batch in BATCHES if batch == 1 or batch * one <= MAX_RUN_SECONDS]
    seconds = _fastest({batch: partial(session.score, [grey] * batch) for batch in batches})
    best = min(seconds[batch] / batch for batch in batches)
    return max(batch for batch in batches if seconds[batch] <= SAME * best * batch)


def _best_concurrency(session: Session, batch: int) -> int:
    """Return the number of runs of `batch` windows at the same time that gives the most windows per second."""
    windows, best = [session.grey_window()] * batch, 1
    if machine.cpus() == 1 or _fastest({1: partial(session.score, windows)})[1] > SHORT_RUN_SECONDS:
        return best
    with ThreadPoolExecutor(MAX_CONCURRENT) as pool:

        def score(_: int) -> None:
            for _ in range(RUNS):
                session.score(windows)

        def run(concurrent: int) -> None:
            for _ in pool.map(score, range(concurrent)):
                pass

        for concurrent in CONCURRENT:
            run(concurrent)  # the runtime may prepare itself
            seconds = _fastest({each: partial(run, each) for each in (best, concurrent)})
            if seconds[best] / best < MIN_GAIN * seconds[concurrent] / concurrent:
                break
            best = concurrent
    return best


def _fastest(runs: Mapping[int, Callable[[], object]]) -> dict[int, float]:
    """Return the shortest of the times in seconds that each run takes; the runs alternate."""
    seconds = dict.fromkeys(runs, math.inf)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.monotonic()
            run()
            seconds[name] = min(seconds[name], time.monotonic() - started)
    return seconds
