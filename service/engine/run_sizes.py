"""Measures how a session computes windows fastest: how many in one run, and how many runs at the same time.

A larger batch needs fewer runs. Beyond some size its feature maps no longer fit into the processor's caches. Runs at
the same time can use processors that wait within each run; large networks leave none.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from service import machine
from service.engine import measurement_cache
from service.engine.session import MAX_CONCURRENT, RunSizes, Session
from service.engine.timing import alternating_times
from service.log import log

KIND = "runs"
"""What these measurements are called in the cache."""
PROVIDERS = {"cpu", "openvino"}
"""The providers that are measured. TensorRT builds an engine for each number of windows, which takes minutes."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Numbers of windows in one run that are measured."""
CONCURRENT = (2, 4, MAX_CONCURRENT)
"""Numbers of runs at the same time that are measured, as long as each is better than the one before."""
MAX_RUN_SECONDS, MAX_RUN_BYTES = 0.1, 1 << 30
"""Predicted duration of a run, and bytes of its activations, up to which it is measured."""
SHORT_RUN_SECONDS = 0.02
"""Duration of a run up to which runs at the same time are measured: in longer ones, processors hardly wait."""
RUNS = 4
"""Number of runs of each of the concurrent threads."""
MAX_RELATIVE_TIME = 1.03
"""Time of a batch for each window, relative to that of the best batch, up to which the larger batch is taken: each
batch costs the scheduler some time too."""
MIN_GAIN = 1.15
"""Times as many windows per second that further concurrent runs must give."""
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
        return _kept(key) or _measured(session, key)
    except Exception as error:  # runtimes raise errors of many classes, such as for a lack of memory
        log.warning("runs", extra={"record": {"model": session.model.name, "error": str(error)}})
        return None


def _of_gpu(session: Session) -> RunSizes:
    """Return a batch that fills a GPU, and two runs at a time: the input of one is copied while the other computes."""
    window = session.model.spec.window
    pixels = window.height * window.width
    count = session.fixed_batch or max(1, min(BATCHES[-1], int(MAX_RUN_BYTES / (pixels * session.bytes_per_pixel))))
    return RunSizes(count * pixels, concurrent=2, large_concurrent=2)


def _kept(key: str) -> RunSizes | None:
    """Return the measurement in the cache; None if it is missing or damaged."""
    kept = measurement_cache.read(KIND, key)
    is_valid = isinstance(kept, dict) and kept.keys() == {"pixels", "concurrent"}
    if not is_valid or not all(isinstance(value, int) and value > 0 for value in kept.values()):
        return None
    return RunSizes(kept["pixels"], min(kept["concurrent"], MAX_CONCURRENT))


def _measured(session: Session, key: str) -> RunSizes:
    """Measure a session, and keep the result unless other programs have disturbed the measurement."""
    window, batch, is_steady = session.model.spec.window, session.fixed_batch, True
    if batch is None:
        batch, is_steady = _best_batch(session)
    concurrent = _best_concurrency(session, batch) if is_steady else 1
    found = RunSizes(batch * window.height * window.width, concurrent)
    if is_steady:
        measurement_cache.write(KIND, key, {"pixels": found.pixels, "concurrent": found.concurrent})
    record = {"model": session.model.name, "version": session.model.version, "file": session.file}
    log.info("runs", extra={"record": {**record, "windows": batch, "concurrent": concurrent, "kept": is_steady}})
    return found


def _best_batch(session: Session) -> tuple[int, bool]:
    """Return the largest number of windows that takes hardly more time for each window than the best number.

    The second value says whether the measurements of each number agree.
    """
    grey, window = session.grey_window(), session.model.spec.window
    seconds = session.predict_tile_seconds(window.height, window.width)
    size = window.height * window.width * session.bytes_per_pixel
    allowed = min(MAX_RUN_SECONDS / seconds, MAX_RUN_BYTES / size)
    batches = [batch for batch in BATCHES if batch <= max(1, allowed)]
    times = alternating_times({batch: partial(session.score, [grey] * batch) for batch in batches})
    fastest = {batch: min(times[batch]) / batch for batch in times}
    best = max(batch for batch in fastest if fastest[batch] <= MAX_RELATIVE_TIME * min(fastest.values()))
    return best, max(times[best]) <= MAX_SPREAD * min(times[best])


def _best_concurrency(session: Session, batch: int) -> int:
    """Return the number of runs of `batch` windows at the same time that gives the most windows per second.

    A second run of OpenVINO at the same time would need the memory of the weights again.
    """
    windows, best = [session.grey_window()] * batch, 1
    if machine.cpus() == 1 or session.backend.provider != "cpu":
        return best
    if min(alternating_times({1: partial(session.score, windows)})[1]) > SHORT_RUN_SECONDS:
        return best
    with ThreadPoolExecutor(MAX_CONCURRENT, initializer=machine.lower_priority) as pool:

        def score(_: int) -> None:
            for _run in range(RUNS):
                session.score(windows)

        def run(concurrent: int) -> None:
            for _done in pool.map(score, range(concurrent)):
                pass

        for concurrent in (each for each in CONCURRENT if each <= machine.cpus()):
            run(concurrent)  # the runtime may prepare itself
            times = alternating_times({each: partial(run, each) for each in (best, concurrent)})
            if min(times[best]) / best < MIN_GAIN * min(times[concurrent]) / concurrent:
                break
            best = concurrent
    return best
