"""The worker of one node of a cluster: an actor that owns the node's sessions, and scores parts when it is asked to.

Nothing here depends on Ray. The class is imported on every node, so every node needs this package.
"""

import posixpath
import socket
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fullconv import __version__
from fullconv.common.temporary import remove_leftovers
from fullconv.errors import RequestError
from service.batch.engines import local_means, local_scorer
from service.batch.item import GRIDS
from service.batch.job import RESULTS, TIMING, Part
from service.batch.listing import GRID
from service.batch.stop import Stop
from service.batch.stores import LocalStore, open_store
from service.batch.work import Work
from service.batch.worker import Means, PartReport, Worker, make_worker


@dataclass(frozen=True)
class Orders:
    """What every node needs to know about a job."""

    work: Work
    models: str
    """The directory of models, at the same absolute path on every node."""
    weights_sha256: str
    """The hash of the model's weights on the machine that began the job."""
    carried: pa.Schema
    """The columns that the list carries."""
    retry_failed: bool = False
    """Whether the parts are finished, and only their images without scores are scored again."""
    package: str = __version__
    """The version of this package on that machine."""


class NodeWorker:
    """Scores parts with all CPUs of a node. Its methods may be called at the same time, after `open` has returned."""

    _worker: Worker

    def __init__(self) -> None:
        self._stop = Stop()

    def open(self, orders: Orders, cpus: int, memory_bytes: float) -> None:
        """Load the model, to score with some CPUs and at most half the machine's memory, or `memory_bytes`.

        Raises RequestError if this node has another model, another version of this package or no such directory.
        """
        if orders.package != __version__:
            raise RequestError(
                f"ray: expected fullconv {orders.package} on every node, got {__version__} on {socket.gethostname()}"
            )
        scorer, here = local_scorer(Path(orders.models), cpus), local_means(cpus)
        model = scorer.model(orders.work.model, orders.work.version)
        if model.weights_sha256 != orders.weights_sha256:
            raise RequestError(
                f"models: expected the same weights of model {orders.work.model!r} on every node, got others on "
                f"{socket.gethostname()}"
            )
        means = Means(here.threads, min(here.memory_bytes, memory_bytes))
        store = open_store(orders.work.out, self._stop.pause)
        self._worker = make_worker(orders.work, scorer, store, orders.carried, self._stop, means)
        self._retry_failed = orders.retry_failed

    def run(self, part: Part, *, again: bool = False) -> PartReport:
        """Score the images of a part, and write its files; raises RequestError, OutputError and StoppedError.

        `again`: a process has ended while it scored the part; the unfinished files that it has left are removed.
        """
        if again:
            self._remove_leftovers(part)
        return self._worker.run(part, retry_failed=self._retry_failed)

    def give_up(self) -> None:
        """End the calls of `run` with an error; returns when no image is being scored any more."""
        self._stop.now()
        self._worker.threads.shutdown(cancel_futures=True)

    def _remove_leftovers(self, part: Part) -> None:
        store = self._worker.items.store
        if isinstance(store, LocalStore):
            grids = {posixpath.dirname(f"{GRIDS}/{place}") for place in part.images.table[GRID].to_pylist()}
            for folder in (RESULTS, TIMING, *grids):
                remove_leftovers(store.root / folder)
