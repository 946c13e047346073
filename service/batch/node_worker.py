"""The worker of one node of a cluster: an actor that owns the node's sessions, and scores parts when it is asked to.

Nothing here depends on Ray. The class is imported on every node, so every node needs this package.
"""

import math
import posixpath
import socket
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pyarrow as pa

from fullconv import __version__
from fullconv.base import BaseScorer
from fullconv.common.temporary import remove_leftovers
from fullconv.errors import RequestError
from service.batch.engines import local_limits, local_transport
from service.batch.item import GRIDS
from service.batch.job import RESULTS, TIMING, Part
from service.batch.listing import GRID
from service.batch.section_scorer import folder_of
from service.batch.stop import Stop
from service.batch.stores import LocalStore, Store, open_store
from service.batch.work import Work
from service.batch.worker import (
    BegunPart,
    PartReport,
    SectionReport,
    Sections,
    Worker,
    WorkerLimits,
    make_worker,
    with_sections,
)


@dataclass(frozen=True)
class NodeConfig:
    """What every node needs to know about a job."""

    work: Work
    models: str
    """The directory of models, at the same absolute path on every node."""
    weights_sha256: str
    """The hash of the model's weights on the machine that began the job."""
    carried: pa.Schema
    """The columns that the list carries."""
    remote: bool = False
    """Whether images or results are in a store."""
    cpus: int = 1
    """CPUs of the node."""
    memory_bytes: float = math.inf
    """Memory of the node that may be used, in bytes, beside the limit for all jobs."""
    retry_failed: bool = False
    """Whether images without scores in finished parts are scored again."""
    package: str = __version__
    """The version of this package on the machine that began the job."""


class NodeWorker:
    """Scores parts with the CPUs of a node. Its methods may be called at the same time.

    The first call loads the model. Every call has the configuration: another process may have taken the place of this
    one since the last call. Calls raise RequestError if this node has another model, another version of this package or
    no such directory; OutputError; and StoppedError.

    `again`: another process has ended while it did the same; the unfinished files that it has left are removed.
    """

    def __init__(self) -> None:
        self._stop, self._opening = Stop(), Lock()
        self._worker: Worker | None = None

    def open(self, config: NodeConfig) -> None:
        """Load the model."""
        self._opened(config)

    def run(self, config: NodeConfig, part: Part, *, again: bool = False) -> PartReport | BegunPart:
        """Score the images of a part, and write its files, unless images are divided."""
        worker = self._opened(config, part if again else None)
        begun = worker.begin(part, retry_failed=config.retry_failed)
        return begun if begun.sections else worker.finish(part, begun)

    def score_section(
        self, config: NodeConfig, part: Part, position: int, section: int, sections: int, *, again: bool = False
    ) -> SectionReport:
        """Score a section of the image at a position of a part."""
        return self._opened(config, part if again else None).score_section(part, position, section, sections)

    def finish(
        self, config: NodeConfig, part: Part, begun: BegunPart, sections: Sections, *, again: bool = False
    ) -> PartReport:
        """Merge the divided images of a part, and write its files."""
        return self._opened(config, part if again else None).finish(part, begun, sections)

    def give_up(self) -> None:
        """End all other calls with an error; returns when no image is being scored any more."""
        self._stop.now()
        if self._worker is not None:
            self._worker.threads.shutdown(cancel_futures=True)

    def _opened(self, config: NodeConfig, again: Part | None = None) -> Worker:
        """Return the worker, after the unfinished files of a part were removed."""
        with self._opening:
            if self._worker is None:
                self._worker = _open(config, self._stop)
            if again is not None:
                _remove_leftovers(self._worker.items.store, again)
        return self._worker


def _open(config: NodeConfig, stop: Stop) -> Worker:
    """Return a worker that scores with the CPUs of a node, and at most half of the machine's memory."""
    host = socket.gethostname()
    if config.package != __version__:
        raise RequestError(f"ray: expected fullconv {config.package} on every node, got {__version__} on {host}")
    work = config.work
    transport = local_transport(Path(config.models), work.backend, work.tile_mib, cpus=config.cpus)
    here = local_limits(config.cpus, remote=config.remote)
    scorer = BaseScorer(transport)
    model = scorer.model(work.model, work.version)
    if model.weights_sha256 != config.weights_sha256:
        raise RequestError(
            f"models: expected the same weights of model {config.work.model!r} on every node, got others on {host}"
        )
    limits = WorkerLimits(here.threads, min(here.memory_bytes, config.memory_bytes))
    store = open_store(work.out, stop.pause)
    return with_sections(make_worker(work, scorer, store, config.carried, stop, limits), transport)


def _remove_leftovers(store: Store, part: Part) -> None:
    """Remove the unfinished files that a process has left when it ended while it scored a part."""
    if isinstance(store, LocalStore):
        grids = {posixpath.dirname(f"{GRIDS}/{place}") for place in part.images.table[GRID].to_pylist()}
        sections = {folder_of(place) for place in part.images.table[GRID].to_pylist()}
        for folder in (RESULTS, TIMING, *grids, *sections):
            remove_leftovers(store.root / folder)
