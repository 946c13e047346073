"""Measures how a session computes windows fastest: how many in one run, and whether each run has a thread of its own.

A larger batch needs fewer runs. Beyond some size its feature maps no longer fit into the processor's caches. Threads
that share a run wait for each other at the end of each layer, which takes a large part of the time of a small network.
As many runs as there are threads, each in one of them, do not wait; but each of them takes longer.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from service import machine
from service.engine import measurement_cache
from service.engine.session import RunSizes, Session
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
"""Predicted duration of a run, and bytes of its activations, up to which it is measured."""
SHORT_RUN_SECONDS = 0.02
"""Duration of a run of one window up to which runs in one thread are measured: in longer ones, threads hardly wait."""
RUNS = 4
"""Number of runs in each thread."""
MAX_RELATIVE_TIME = 1.03
"""Time of a batch for each window, relative to that of the best batch, up to which the larger batch is taken: each
batch costs the scheduler some time too."""
MIN_GAIN = 1.1
"""Times as many windows per second that runs in one thread each must give: they need the weights once more."""
MAX_SPREAD = 1.25
"""Largest ratio of the measurements of one run that are kept: if it is larger, other programs used the processors."""


def run_sizes(session: Session, threads: int) -> RunSizes | None:
    """Return how a session that has measured its rate computes fastest in `threads` threads; None if it is not known.

    The first time on a machine this is measured, which takes a second for large networks.
    """
    if session.backend.provider == "cuda":
        return _of_gpu(session)
    if session.backend.provider not in PROVIDERS:
        return None
    key = measurement_cache.key(session.model, session.position, threads, str(session.backend))
    try:
        return _kept(key) or _measured(session, threads, key)
    except Exception as error:  # runtimes raise errors of many classes, such as for a lack of memory
        log.warning("runs", extra={"record": {"model": session.model.name, "error": str(error)}})
        return None


def _of_gpu(session: Session) -> RunSizes:
    """Return a batch that fills a GPU, and two runs at a time: the input of one is copied while the other computes."""
    window = session.model.spec.window
    pixels = window.height * window.width
    count = session.fixed_batch or max(1, min(BATCHES[-1], int(MAX_RUN_BYTES / (pixels * session.bytes_per_pixel))))
    return RunSizes(count * pixels, concurrent=GPU_RUNS, large_concurrent=GPU_RUNS)


def _kept(key: str) -> RunSizes | None:
    """Return the measurement in the cache; None if it is missing or damaged."""
    kept = measurement_cache.read(KIND, key)
    is_valid = isinstance(kept, dict) and kept.keys() == {"pixels", "concurrent"}
    if not is_valid or not all(isinstance(value, int) and value > 0 for value in kept.values()):
        return None
    return _sizes(kept["pixels"], kept["concurrent"])


def _sizes(pixels: int, concurrent: int) -> RunSizes:
    return RunSizes(pixels, concurrent, single=concurrent > 1)


def _measured(session: Session, threads: int, key: str) -> RunSizes:
    """Measure a session, and keep the result unless other programs have disturbed the measurement."""
    batch, seconds, is_steady = _best_batch(session)
    concurrent = 1
    if is_steady and _may_run_in_one_thread(session, threads):
        single, each = _best_single(session, batch, threads)
        if seconds >= MIN_GAIN * each:
            batch, concurrent = single, threads
    window = session.model.spec.window
    found = _sizes(batch * window.height * window.width, concurrent)
    if is_steady:
        measurement_cache.write(KIND, key, {"pixels": found.pixels, "concurrent": found.concurrent})
    record = {"model": session.model.name, "version": session.model.version, "file": session.file}
    log.info("runs", extra={"record": {**record, "windows": batch, "concurrent": concurrent, "kept": is_steady}})
    return found


def _best_batch(session: Session) -> tuple[int, float, bool]:
    """Return the largest number of windows that takes hardly more time for each window than the best number.

    The second value is this time in seconds; the third says whether the measurements agree.
    """
    grey, window = session.grey_window(), session.model.spec.window
    seconds = session.predict_tile_seconds(window.height, window.width)
    size = window.height * window.width * session.bytes_per_pixel
    allowed = min(MAX_RUN_SECONDS / seconds, MAX_RUN_BYTES / size)
    batches = [batch for batch in BATCHES if batch <= max(1, allowed)]
    if session.fixed_batch is not None:
        batches = [session.fixed_batch]
    session.score([grey] * max(batches))  # allocates the memory
    times = alternating_times({batch: partial(session.score, [grey] * batch) for batch in batches})
    fastest = {batch: min(times[batch]) / batch for batch in times}
    best = max(batch for batch in fastest if fastest[batch] <= MAX_RELATIVE_TIME * min(fastest.values()))
    return best, fastest[best], max(times[best]) <= MAX_SPREAD * min(times[best])


def _may_run_in_one_thread(session: Session, threads: int) -> bool:
    """Return whether runs in one thread each are measured: only ONNX Runtime on the CPU has them."""
    window = session.model.spec.window
    is_short = session.predict_tile_seconds(window.height, window.width) <= SHORT_RUN_SECONDS
    return threads > 1 and session.backend.provider == "cpu" and is_short


def _best_single(session: Session, batch: int, threads: int) -> tuple[int, float]:
    """Return how many windows a run in one thread should have, and the seconds for each while all threads run."""
    grey = session.grey_window()
    sizes = {session.fixed_batch or 1, batch}
    with ThreadPoolExecutor(threads, initializer=machine.lower_priority) as pool:

        def run(count: int) -> None:
            def score(_: int) -> None:
                for _run in range(RUNS):
                    session.score([grey] * count, single=True)

            for _done in pool.map(score, range(threads)):
                pass

        run(min(sizes))  # loads the file for runs in one thread
        times = alternating_times({count: partial(run, count) for count in sizes})
    seconds = {count: min(times[count]) / (threads * RUNS * count) for count in sizes}
    best = max(count for count in seconds if seconds[count] <= MAX_RELATIVE_TIME * min(seconds.values()))
    return best, seconds[best]
