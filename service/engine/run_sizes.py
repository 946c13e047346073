"""Measures how a session computes windows fastest: how many in one run, and whether each run has a thread of its own.

A larger batch needs fewer runs. Beyond some size its feature maps no longer fit into the processor's caches. Threads
that share a run wait for each other at the end of each layer, which takes a large part of the time of a small network.
As many runs as there are threads, each in one of them, do not wait; but each of them takes longer.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from service import machine
from service.dense.arrays import Pixels
from service.engine import measurement_cache
from service.engine.session import RunSizes, Session, SingleRuns
from service.engine.timing import alternating_times
from service.log import log

KIND = "runs"
"""What these measurements are called in the cache."""
PROVIDERS = {"cpu", "openvino"}
"""The providers that are measured. TensorRT builds an engine for each number of windows, which takes minutes."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Numbers of windows in one run that are measured."""
GPU_RUNS = 2
"""Number of runs at the same time on a GPU."""
MAX_RUN_SECONDS, MAX_RUN_BYTES = 0.1, 1 << 30
"""Predicted duration of a run, and bytes of the activations of all runs at the same time, up to which it is measured. A
run in one thread is predicted to take as many times as long as there are threads."""
RUNS = 4
"""Number of runs one after the other, in one thread or in all, of which the time is compared."""
MAX_RELATIVE_TIME = 1.03
"""Time of a batch for each window, relative to that of the best batch, up to which the larger batch is taken: each
batch costs the scheduler some time too."""
MIN_GAIN = 1.1
"""Times as many windows per second that runs in one thread each must give: they need the weights once more."""
MAX_SPREAD = 1.25
"""Largest ratio of the measurements of one run that are kept: if it is larger, other programs used the processors."""


def run_sizes(session: Session, threads: int, *, singles: bool = True) -> RunSizes | None:
    """Return how a session that has measured its rate computes fastest in `threads` threads; None if it is not known.

    `singles` says whether runs may compute in one thread each. The first time on a machine this is measured, which
    takes a second for large networks.
    """
    if session.backend.provider == "cuda":
        return _of_gpu(session)
    if session.backend.provider not in PROVIDERS:
        return None
    singles = singles and threads > 1 and session.backend.provider == "cpu"
    key = measurement_cache.key(session.model, session.position, threads, singles, str(session.backend))
    try:
        return _kept(key, threads) or _measured(session, threads, key, singles=singles)
    except Exception as error:  # runtimes raise errors of many classes, such as for a lack of memory
        log.warning("runs", extra={"record": {"model": session.model.name, "error": str(error)}})
        return None


def _of_gpu(session: Session) -> RunSizes:
    """Return a batch that fills a GPU, and two runs at a time: the input of one is copied while the other computes."""
    window = session.model.spec.window
    pixels = window.height * window.width
    count = session.fixed_batch or max(1, min(BATCHES[-1], int(MAX_RUN_BYTES / (pixels * session.bytes_per_pixel))))
    return RunSizes(count * pixels, concurrent=GPU_RUNS)


def _kept(key: str, threads: int) -> RunSizes | None:
    """Return the measurement in the cache; None if it is missing or damaged."""
    kept = measurement_cache.read(KIND, key)
    if not isinstance(kept, dict) or kept.keys() != {"pixels", "single_pixels", "fewest"}:
        return None
    pixels, single, fewest = kept["pixels"], kept["single_pixels"], kept["fewest"]
    if not all(isinstance(value, int) for value in kept.values()) or pixels < 1 or not 0 <= fewest <= threads:
        return None
    return RunSizes(pixels, single=SingleRuns(single, threads, fewest) if single > 0 < fewest else None)


def _measured(session: Session, threads: int, key: str, *, singles: bool) -> RunSizes:
    """Measure a session, and keep the result unless other programs have disturbed the measurement."""
    window, single = session.model.spec.window, None
    pixels = window.height * window.width
    batch, is_steady = _best_batch(session)
    counts = _single_counts(session, batch, threads) if singles and is_steady else []
    if counts:
        count, gain, is_steady = _best_single(session, batch, counts, threads)
        if gain >= MIN_GAIN:
            single = SingleRuns(count * pixels, threads, math.ceil(threads / gain))
    found = RunSizes(batch * pixels, single=single)
    if is_steady:
        document = {"pixels": found.pixels, "single_pixels": 0, "fewest": 0}
        if single is not None:
            document |= {"single_pixels": single.pixels, "fewest": single.fewest}
        measurement_cache.write(KIND, key, document)
    record = {"model": session.model.name, "version": session.model.version, "file": session.file, "windows": batch}
    if single is not None:
        record |= {"single_windows": single.pixels // pixels, "single_from": single.fewest}
    log.info("runs", extra={"record": {**record, "kept": is_steady}})
    return found


def _best_batch(session: Session) -> tuple[int, bool]:
    """Return the largest number of windows that takes hardly more time for each window than the best number.

    The second value says whether the measurements agree.
    """
    grey, allowed = session.grey_window(), _allowed_windows(session, 1)
    batches = [batch for batch in BATCHES if batch <= max(1, allowed)]
    if session.fixed_batch is not None:
        batches = [session.fixed_batch]
    most = max(batches)
    session.score([grey] * most)  # allocates the memory
    times = alternating_times({batch: partial(_repeat, session, [grey] * batch, most // batch) for batch in batches})
    best = _best({batch: min(times[batch]) / (most // batch * batch) for batch in times})
    return best, _agree(times[best])


def _repeat(session: Session, tiles: Sequence[Pixels], runs: int, *, single: bool = False) -> None:
    """Run the same tiles several times: a single run of a small network is too short to be timed."""
    for _ in range(runs):
        session.score(tiles, single=single)


def _allowed_windows(session: Session, runs: int) -> float:
    """Return how many windows each of `runs` runs at the same time may have, by their predicted duration and memory."""
    window = session.model.spec.window
    seconds = session.predict_tile_seconds(window.height, window.width)
    size = window.height * window.width * session.bytes_per_pixel
    return min(MAX_RUN_SECONDS / seconds, MAX_RUN_BYTES / size) / runs


def _single_counts(session: Session, batch: int, threads: int) -> list[int]:
    """Return the numbers of windows of a run in one thread that are measured: the smallest, and up to `batch`."""
    allowed = int(min(batch, _allowed_windows(session, threads)))
    if session.fixed_batch is not None:
        return [session.fixed_batch] if allowed >= session.fixed_batch else []
    return sorted({1, allowed}) if allowed else []


def _best_single(session: Session, batch: int, counts: Sequence[int], threads: int) -> tuple[int, float, bool]:
    """Return how many windows a run in one thread should have, and the gain: how many times as many windows per second.

    The gain is that of `threads` such runs at the same time over runs of `batch` windows in all threads. The third
    value says whether the measurements agree.
    """
    grey = session.grey_window()
    with ThreadPoolExecutor(threads, initializer=machine.lower_priority) as pool:

        def run(count: int) -> None:
            tiles = [[grey] * count] * threads
            for _done in pool.map(partial(_repeat, session, runs=RUNS, single=True), tiles):
                pass

        run(max(counts))  # loads the file for runs in one thread, and allocates the memory
        in_all = {0: partial(_repeat, session, [grey] * batch, RUNS)}
        times = alternating_times(in_all | {count: partial(run, count) for count in counts})
    seconds = {count: min(times[count]) / (threads * RUNS * count) for count in counts}
    best = _best(seconds)
    return best, min(times[0]) / (RUNS * batch) / seconds[best], _agree(times[0]) and _agree(times[best])


def _best(seconds: Mapping[int, float]) -> int:
    """Return the largest number of windows with hardly more seconds for each window than the best number."""
    return max(count for count in seconds if seconds[count] <= MAX_RELATIVE_TIME * min(seconds.values()))


def _agree(times: Sequence[float]) -> bool:
    return max(times) <= MAX_SPREAD * min(times)
