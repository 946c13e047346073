"""A run of a job: the images → the job in its place → an engine → the summary."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from service.batch.changes import Comparison
from service.batch.display import RunDisplay, announce, open_display
from service.batch.item import Scored
from service.batch.job import RESULTS, Job, open_job, part_file, read_finished
from service.batch.lease import Waiting, lease
from service.batch.limits import FailureLimit
from service.batch.listing import Listing
from service.batch.reading import Copies
from service.batch.run_statistics import RunStatistics
from service.batch.section_scorer import SECTIONS
from service.batch.stop import Stop
from service.batch.stores import Store
from service.batch.work import Work
from service.batch.worker import Observe, PartReport, SectionReport

READERS = 16
"""Threads that read the finished parts of a job: most of the time they wait for a bucket."""
WHOLE_JOB = (0, 1)
"""The number of the shard, and the number of shards, of a run of all parts."""
Engine = Callable[[Job, list[int], Observe], Iterator[PartReport | SectionReport]]
"""Scores the parts of these numbers; calls the observer for each image, and yields a report of each finished part, and
of each section of an image that it divides."""


@dataclass(frozen=True)
class Run:
    """One run of a job."""

    store: Store
    work: Work
    weights_sha256: str
    shard: tuple[int, int] = WHOLE_JOB
    """Number of the shard, and number of shards."""
    update: bool = False
    retry_failed: bool = False
    limit: FailureLimit = field(default_factory=FailureLimit)
    as_json: bool = False
    stop: Stop = field(default_factory=Stop)

    def run(self, images: Listing, engine: Engine) -> dict[str, Any]:
        """Begin the job or continue it; returns the summary.

        Raises JobError, LeaseError, OutputError, and what the engine raises.
        """
        waiting = Waiting(self.stop.wait_to_begin, partial(announce, "wait", as_json=self.as_json))
        with lease(self.store, *self.shard, lost=self.stop.gently.set, waiting=waiting):
            terms = self.work.terms(self.weights_sha256)
            job = open_job(self.store, terms, images, self._comparison, update=self.update)
            statistics, pending = self._begun(job)
            with open_display(statistics, as_json=self.as_json) as display:
                self._score(job, pending, engine, display)
            if self.shard == WHOLE_JOB and not self.stop.gently.is_set():
                self.store.remove_folder(SECTIONS)
        return {**statistics.document(), "stopped": self.stop.gently.is_set(), "results": self.work.out}

    @property
    def _comparison(self) -> Comparison:
        """How images are compared with the results of earlier runs."""
        tell = partial(announce, "compare", as_json=self.as_json)
        return Comparison(self.work.folder, Copies(self.stop), self.retry_failed, tell)

    def _begun(self, job: Job) -> tuple[RunStatistics, list[int]]:
        """Return the counts of the parts that are finished, and the numbers of those to score."""
        number, count = self.shard
        own, names = range(number, len(job.bounds), count), self.store.names(RESULTS)
        done = [each for each in own if part_file(each) in names]
        with ThreadPoolExecutor(READERS, thread_name_prefix="finished") as pool:
            finished = dict(zip(done, pool.map(self._failures, done), strict=True))
        pending = [each for each in own if each not in finished or (self.retry_failed and finished[each])]
        statistics = RunStatistics(sum(map(job.count, own)))
        for each, failures in finished.items():
            again = self.retry_failed and failures
            statistics.kept += job.count(each) - (failures.total() if again else 0)
            statistics.failures.update({} if again else failures)
        return statistics, pending

    def _failures(self, number: int) -> Counter[str]:
        """Return the number of images without scores in a finished part, by the kind of the error."""
        self.stop.check()
        kinds = read_finished(self.store, number, ["error_kind"])["error_kind"]
        return Counter(kinds.drop_null().to_pylist())

    def _score(self, job: Job, pending: list[int], engine: Engine, display: RunDisplay) -> None:
        """Score parts; stop when too many images have failed."""
        statistics = display.statistics

        def check() -> None:
            if self.limit.exceeded(statistics.failed, statistics.total):
                self.stop.gently.set()

        def observe(scored: Scored) -> None:
            display.add_image(scored)
            check()

        display.emit({"event": "start", "images": statistics.total, "kept": statistics.kept, "parts": len(pending)})
        check()
        for report in engine(job, pending, observe):
            display.add_report(report)
