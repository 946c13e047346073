"""The engines of this process: they give parts to a worker, which scores with the models here or with servers.

Two parts are scored at the same time, so that the threads have work while the last images of a part are scored. If the
running parts have fewer images than there are threads, further parts begin.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from fullconv.base import BaseScorer
from service import machine
from service.batch.job import Job
from service.batch.stop import Stop, StoppedError
from service.batch.work import TILE_MIB
from service.batch.worker import Observe, PartReport, Worker, WorkerLimits
from service.engine.backend import REFERENCE, Backend
from service.engine.batching import Batching
from service.engine.executables import Threads
from service.engine.scheduler import Scheduler
from service.limits import MIB, Tuning
from service.local import LocalTransport, SharedCompute

PARTS = 2
"""Number of parts that are scored at the same time, if they have many images."""
WAIT_SECONDS = 0.2
"""Longest time for which the main thread waits at once. Python runs the handler of a signal at its end at
the latest."""
THREADS_PER_CPU, MIN_THREADS = 2, 4
"""Images in this process at the same time, for each CPU, and at the least: while one is computed, another is decoded.
More threads would wait for the interpreter's lock."""
REMOTE_THREADS_PER_CPU, MIN_REMOTE_THREADS = 4, 8
"""The same numbers if images or results are in a store, for which threads wait longer."""
THREADS_PER_SERVER = 8
"""Images that are sent to each server at the same time."""
BATCHING = Batching(max_tiles=32, max_activation_bytes=32 * MIB)
"""Sizes of batches. Larger activations do not fit into the caches, so that a larger batch takes longer for a tile."""
MEMORY_SHARE = 0.5
"""Share of the machine's memory for the plans of all images."""
SINGLE_SHARE = 0.125
"""Share of the machine's memory for the activations of tiles that run in one thread each, in all threads together."""


def local_scorer(models: Path, backend: Backend = REFERENCE, tile_mib: int = TILE_MIB) -> BaseScorer:
    """Return a scorer that computes with all CPUs.

    Raises RequestError if there is no such directory of models, or this machine does not have the backend.
    """
    return BaseScorer(local_transport(models, backend, tile_mib))


def local_transport(
    models: Path, backend: Backend = REFERENCE, tile_mib: int = TILE_MIB, *, cpus: int | None = None
) -> LocalTransport:
    """Return the transport of a scorer whose threads share batches.

    Raises RequestError if there is no such directory of models, or this machine does not have the backend.

    Networks compute with `cpus`. Default, and if there are no more: with one CPU of each core.
    """
    count = cpus if cpus is not None and cpus < machine.cpus() else machine.cores()
    threads = Threads(count, single_bytes=SINGLE_SHARE * machine.memory_bytes() / count)
    scheduler = Scheduler(concurrent=count, batching=BATCHING)
    tuning = Tuning(tile_bytes=tile_mib * MIB, prefetch=max(Tuning.prefetch, count))
    return LocalTransport(
        models,
        provider=backend.provider,
        precision=backend.precision,
        shared=SharedCompute(scheduler, tuning, threads),
    )


def local_limits(cpus: int | None = None, *, remote: bool = False) -> WorkerLimits:
    """Return what a worker may use of this machine; `remote`: images or results are in a store."""
    count = cpus or machine.cpus()
    threads = max(MIN_THREADS, THREADS_PER_CPU * count)
    if remote:
        threads = max(MIN_REMOTE_THREADS, REMOTE_THREADS_PER_CPU * count)
    return WorkerLimits(threads, MEMORY_SHARE * machine.memory_bytes())


def server_limits(servers: int) -> WorkerLimits:
    """Return what a worker may use of this machine, whose images servers score."""
    return WorkerLimits(THREADS_PER_SERVER * servers, MEMORY_SHARE * machine.memory_bytes())


def run_here(
    worker: Worker, job: Job, numbers: Iterable[int], observe: Observe, stop: Stop, *, retry_failed: bool = False
) -> Iterator[PartReport]:
    """Score parts; yields a report of each part when its files are written.

    Ends early if the job stops. Raises what `Worker.run` raises, after other parts have been given up.
    """
    remaining = deque(numbers)
    running: dict[Future[PartReport], int] = {}

    def begin() -> None:
        while remaining and not stop.gently.is_set() and (len(running) < PARTS or sum(running.values()) < worker.count):
            part = job.part(remaining.popleft())
            future = pool.submit(worker.run, part, observe, retry_failed=retry_failed)
            running[future] = part.images.table.num_rows

    done: set[Future[PartReport]] = set()
    with ThreadPoolExecutor(max(PARTS, worker.count), thread_name_prefix="part") as pool:
        try:
            begin()
            while running:
                done, _ = wait(running, WAIT_SECONDS, FIRST_COMPLETED)
                for future in done:
                    del running[future]
                begin()
                yield from (future.result() for future in done)
        except StoppedError as error:
            stop.now()
            raise _cause(error, [*done, *running]) from None
        except BaseException:
            stop.now()
            raise


def _cause(stopped: StoppedError, parts: Sequence[Future[PartReport]]) -> BaseException:
    """Return the error of the part because of which the others were given up; `stopped` if the user has stopped."""
    wait(parts)
    errors = [part.exception() for part in parts]
    return next((error for error in errors if error and not isinstance(error, StoppedError)), stopped)
