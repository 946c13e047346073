"""The engine of a Ray cluster: gives tasks to an actor on every node, which scores with all CPUs of its node.

    tasks (task_queue) → calls of the actors (ray_cluster) → their workers (node_worker) → reports

The actors write the files of the parts; this process gets reports. Ray starts lost processes again and repeats their
calls. This module gives the tasks of lost nodes to other actors, and starts actors on nodes that are added to the
cluster. An actor gets tasks when it has opened the model, so that no task waits for a node whose CPUs another job uses.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from fullconv.errors import UnavailableError
from service.batch.engines import PARTS, local_limits
from service.batch.job import Job, Part
from service.batch.listing import Listing
from service.batch.node_worker import NodeConfig
from service.batch.ray_cluster import PROCESSES, RayCluster, load_ray, reason_of
from service.batch.run import Engine
from service.batch.stop import Stop, StoppedError
from service.batch.task_queue import FinishTask, PartTask, SectionTask, Task, TaskQueue
from service.batch.worker import Observe, PartReport, SectionReport

WAIT_SECONDS = 0.5
"""Seconds between two checks whether the job stops."""
NODES_SECONDS = 5.0
"""Seconds between two looks for nodes without an actor."""
GIVE_UP_SECONDS = 8.0
"""Seconds in which actors can remove unfinished files, when the job stops at once: fewer than the command waits for."""
ACTORS = 2
"""Number of actors that may end for good with the same task while their nodes are alive."""


def ray_engine(address: str, config: NodeConfig, stop: Stop) -> Engine:
    """Return the engine of the cluster at an address, "auto" or HOST:PORT; raises RequestError if Ray is not installed.

    The engine raises UnavailableError if there is no such cluster, if no node can score, and if ACTORS actors end for
    good during the same task. It raises the errors of `NodeWorker`, after the parts that have begun were given up.
    """
    return partial(_run, RayCluster(load_ray(), address), config, stop)


def _run(
    cluster: RayCluster, config: NodeConfig, stop: Stop, job: Job, numbers: Iterable[int], observe: Observe
) -> Iterator[PartReport | SectionReport]:
    """Score parts; yields a report of each part when its files are written. Ends early if the job stops."""
    pending = list(numbers)
    if not pending:
        return
    with cluster.connected():
        dispatcher = _Dispatcher(cluster, config, job, TaskQueue(pending))
        try:
            for report in dispatcher.reports(stop):
                if isinstance(report, PartReport):
                    for scored in report.images_done:
                        observe(scored)
                yield report
        except BaseException:
            dispatcher.give_up()
            raise


@dataclass(eq=False)
class _Node:
    """A node of the cluster with its actor."""

    name: str
    actor: Any
    config: NodeConfig
    threads: int
    """Number of images that the actor scores at the same time."""
    is_open: bool = False
    """Whether the actor has opened the model, and can take tasks."""
    tasks: dict[Task, int] = field(default_factory=dict)
    """The tasks of the actor, and the number of images that each is worth."""

    @property
    def images(self) -> int:
        """Number of images of its tasks."""
        return sum(self.tasks.values())

    @property
    def is_free(self) -> bool:
        """Whether the actor can take a task."""
        return self.is_open and (len(self.tasks) < PARTS or self.images < self.threads)


@dataclass(eq=False)
class _Dispatcher:
    """Gives the tasks of a job to the actors of a cluster."""

    cluster: RayCluster
    config: NodeConfig
    job: Job
    queue: TaskQueue
    nodes: dict[str, _Node] = field(default_factory=dict)
    """The nodes with an actor, by name."""
    calls: dict[Any, tuple[_Node, Task | None]] = field(default_factory=dict)
    """The node and the task of every call that has not returned; None: the actor opens the model."""
    unusable: set[str] = field(default_factory=set)
    """The names of the nodes on which no actor could open the model."""
    lost: set[Task] = field(default_factory=set)
    """The tasks with which an actor has ended for good."""
    ended: Counter[Task] = field(default_factory=Counter)
    """How many actors have ended for good with a task while their nodes were alive."""
    reason: str = "none"
    """Why the last actor has ended."""
    looked: float = -math.inf
    """Monotonic time of the last look for nodes."""

    def reports(self, stop: Stop) -> Iterator[PartReport | SectionReport]:
        """Score the parts; yields the reports. Raises StoppedError if the job stops at once."""
        while True:
            begun_only = stop.gently.is_set()
            waits = not self.queue.is_done(begun_only=begun_only)
            if waits:
                self._start_actors()
                self._assign_tasks(begun_only=begun_only)
            elif not any(node.tasks for node in self.nodes.values()):
                return
            stop.check()
            done, _ = self.cluster.ray.wait(list(self.calls), timeout=WAIT_SECONDS)
            yield from (report for ref in done if (report := self._take_result(ref)) is not None)

    def give_up(self) -> None:
        """End the calls, and wait until the actors have removed unfinished files."""
        ends = [node.actor.give_up.remote() for node in self.nodes.values() if node.is_open]
        if ends:
            self.cluster.ray.wait(ends, num_returns=len(ends), timeout=GIVE_UP_SECONDS)

    def _start_actors(self) -> None:
        """Start an actor on every node that has none; raises UnavailableError if no node can have an actor."""
        if time.monotonic() - self.looked < NODES_SECONDS:
            return
        self.looked = time.monotonic()
        for name, resources in self.cluster.nodes().items():
            if name not in self.nodes and name not in self.unusable:
                self._start_actor(name, int(resources["CPU"]), resources.get("memory", math.inf))
        if not self.nodes:
            raise UnavailableError(f"address: expected a Ray cluster with a node that can score, got {self.reason}")

    def _start_actor(self, name: str, cpus: int, memory_bytes: float) -> None:
        threads = local_limits(cpus, remote=self.config.remote).threads
        actor = self.cluster.actor(name, cpus, threads + 1)  # `give_up` is called while parts are scored
        config = replace(self.config, cpus=cpus, memory_bytes=memory_bytes)
        node = self.nodes[name] = _Node(name, actor, config, threads)
        self.calls[actor.open.remote(config)] = node, None

    def _assign_tasks(self, *, begun_only: bool) -> None:
        """Give tasks to free actors, first to those whose tasks have the fewest images."""
        while free := [node for node in self.nodes.values() if node.is_free]:
            task = self.queue.take(begun_only=begun_only)
            if task is None:
                return
            node = min(free, key=lambda each: each.images)
            self.calls[self._call(node, task)] = node, task
            node.tasks[task] = self.job.count(task.number) if isinstance(task, PartTask) else node.threads

    def _call(self, node: _Node, task: Task) -> Any:  # noqa: ANN401 (an extra)
        """Begin the call that does a task."""
        part, again, actor = detached(self.job.part(task.number)), task in self.lost, node.actor
        match task:
            case PartTask():
                return actor.run.remote(node.config, part, again=again)
            case SectionTask(_, position, section, sections):
                return actor.score_section.remote(node.config, part, position, section, sections, again=again)
            case FinishTask():
                return actor.finish.remote(node.config, part, *self.queue.begun(task.number), again=again)

    def _take_result(self, ref: Any) -> PartReport | SectionReport | None:  # noqa: ANN401 (an extra)
        """Return the report of a call that has returned, if it has one. Raises the error of the call."""
        if ref not in self.calls:  # the call of a node that was lost meanwhile
            return None
        node, task = self.calls[ref]
        try:
            result = self.cluster.ray.get(ref)
        except self.cluster.ray.exceptions.RayTaskError as error:
            if task is None or not isinstance(error.cause, StoppedError):
                raise error.cause from error
            self._take_back(ref, task)
            return None
        except self.cluster.ray.exceptions.RayError as error:
            self._lose(node, error)
            return None
        del self.calls[ref]
        if task is None:
            node.is_open = True
            return None
        del node.tasks[task]
        return self.queue.add(result, task)

    def _take_back(self, ref: Any, task: Task) -> None:  # noqa: ANN401 (an extra)
        """Take back a task whose actor has stopped because another of its tasks has failed; that error follows."""
        node, _ = self.calls.pop(ref)
        node.is_open = False
        del node.tasks[task]
        self.queue.put_back([task])

    def _lose(self, node: _Node, error: Exception) -> None:
        """Take back the tasks of an actor that has ended for good; raises UnavailableError if others would end too."""
        self.looked, self.reason = -math.inf, reason_of(error)
        if getattr(error, "actor_init_failed", False):
            raise UnavailableError(f"ray: expected fullconv on every node, got {self.reason}")
        self.calls = {ref: call for ref, call in self.calls.items() if call[0] is not node}
        self.queue.put_back(node.tasks)
        self.lost.update(node.tasks)
        del self.nodes[node.name]
        if node.name in self.cluster.nodes():
            self._count_end(node)

    def _count_end(self, node: _Node) -> None:
        """Count the end of an actor whose node is alive; raises UnavailableError if a task has ended ACTORS actors."""
        if not node.is_open:
            self.unusable.add(node.name)
        self.ended.update([*node.tasks])
        for task in node.tasks:
            if self.ended[task] == ACTORS:
                raise UnavailableError(
                    f"part {task.number}: expected a process that scores it, got the end of {ACTORS * PROCESSES}: "
                    f"{self.reason}"
                )


def detached(part: Part) -> Part:
    """Return a part whose table does not refer to the memory of the whole job's table, which would be sent with it."""
    table = part.images.table
    return Part(part.number, Listing(table.take(pa.array(range(table.num_rows), pa.int64())), part.images.raw))
