"""The engine of a Ray cluster: gives parts to an actor on every node, which scores with all CPUs of its node.

Ray places the actors, moves parts and reports, and notices that a process or a node has ended. Ray is not asked to
restart an actor: the node may be lost, and the actor's parts would wait for it. The parts of an actor that has ended
go to other actors, and every node that is alive gets an actor, also a node that was added since the job began.

The actors write the files of the parts; this process gets reports. An actor gets parts when it has opened the model,
so that no part waits for a node whose CPUs another job uses.
"""

import math
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from fullconv.errors import RequestError, UnavailableError
from service.batch.engines import PARTS, local_means
from service.batch.job import Job, Part
from service.batch.listing import Listing
from service.batch.node_worker import NodeWorker, Orders
from service.batch.run import Engine
from service.batch.stop import Stop, StoppedError
from service.batch.worker import Observe, PartReport

REACH_SECONDS = 10.0
"""Seconds in which a connection to the cluster is made."""
WAIT_SECONDS = 0.5
"""Seconds between two checks whether the job stops."""
NODES_SECONDS = 5.0
"""Seconds between two looks for nodes without an actor."""
GIVE_UP_SECONDS = 10.0
"""Seconds in which actors can remove unfinished files, when the job stops at once."""
TRIES = 3
"""Number of times that a part may end the process of an actor, and that an actor may end before it is open."""


def ray_engine(address: str, orders: Orders, stop: Stop) -> Engine:
    """Return the engine of the cluster at an address, "auto" or HOST:PORT; raises RequestError if Ray is not installed.

    The engine raises UnavailableError if there is no such cluster, if no node can score, and if a part ends the process
    of an actor TRIES times. It raises the errors of `NodeWorker`, after the parts that have begun were given up.
    """
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ImportError:
        raise RequestError("engine: expected the package ray for --engine ray, got none: pip install ray") from None
    return partial(_run, _Cluster(ray, address), orders, stop)


def _run(
    cluster: "_Cluster", orders: Orders, stop: Stop, job: Job, numbers: Iterable[int], observe: Observe
) -> Iterator[PartReport]:
    """Score parts; yields a report of each part when its files are written. Ends early if the job stops."""
    waiting = deque(numbers)
    if not waiting:
        return
    with cluster.connected():
        crew = _Crew(cluster, orders, job, waiting)
        try:
            for report in crew.reports(stop):
                for scored in report.images_done:
                    observe(scored)
                yield report
        except BaseException:
            crew.give_up()
            raise


@dataclass(frozen=True)
class _Cluster:
    """A cluster that can be connected to."""

    ray: Any
    """The package."""
    address: str

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect this process for the duration of the block; raises UnavailableError."""
        terminate = signal.getsignal(signal.SIGTERM)
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # Ray prints the logs of lost nodes
            try:
                self._reach()
                self.ray.init(self.address, log_to_driver=False, logging_level="ERROR")
            except (OSError, RuntimeError, ValueError) as error:
                raise UnavailableError(
                    f"address: expected a Ray cluster at {self.address}, got {_reason(error)}: start it with ray start"
                ) from None
            finally:
                signal.signal(signal.SIGTERM, terminate)  # which Ray replaces
            try:
                yield
            finally:
                self.ray.shutdown()

    def _reach(self) -> None:
        """Raise OSError if nothing listens at the address: Ray would try for minutes."""
        host, _, port = self.address.rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()

    def nodes(self) -> dict[str, dict[str, float]]:
        """Return the resources of every node that is alive and has a CPU, by its id."""
        alive = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
        return {name: resources for name, resources in alive.items() if resources.get("CPU", 0) >= 1}

    def actor(self, node: str, cpus: int, calls: int) -> Any:  # noqa: ANN401 (an extra)
        """Return a new actor, which starts when the CPUs of its node are free, and ends when the node is lost.

        It works on at most `calls` calls at the same time.
        """
        place = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        return self.ray.remote(num_cpus=cpus, max_concurrency=calls, scheduling_strategy=place)(NodeWorker).remote()


@dataclass(eq=False)
class _Actor:
    """The actor of a node."""

    node: str
    handle: Any
    threads: int
    """Number of images that it scores at the same time."""
    is_open: bool = False
    load: dict[int, int] = field(default_factory=dict)
    """The number of each part that it has, and the number of the part's images."""

    @property
    def images(self) -> int:
        """Number of images of its parts."""
        return sum(self.load.values())

    @property
    def is_free(self) -> bool:
        """Whether it can take a part."""
        return self.is_open and (len(self.load) < PARTS or self.images < self.threads)


@dataclass(eq=False)
class _Crew:
    """The actors of a cluster, and the parts that they score."""

    cluster: _Cluster
    orders: Orders
    job: Job
    waiting: deque[int]
    """The numbers of the parts that no actor has."""
    actors: dict[str, _Actor] = field(default_factory=dict)
    """By node."""
    calls: dict[Any, tuple[_Actor, int | None]] = field(default_factory=dict)
    """The actor of every call that has not returned, and the number of the part; None: the actor opens the model."""
    unopened: Counter[str] = field(default_factory=Counter)
    """How often an actor has ended before it was open, by node."""
    lost: set[int] = field(default_factory=set)
    """The numbers of the parts with which an actor has ended."""
    ended: Counter[int] = field(default_factory=Counter)
    """How often an actor has ended with a part while its node was alive, by the part's number."""
    reason: str = "none"
    """Why the last actor has ended."""
    looked: float = -math.inf
    """Monotonic time of the last look for nodes."""

    def reports(self, stop: Stop) -> Iterator[PartReport]:
        """Score the parts; yields a report of each. Raises StoppedError if the job stops at once."""
        while True:
            if not stop.gently.is_set():
                self._hire()
                self._give()
            if not any(actor.load for actor in self.actors.values()) and (stop.gently.is_set() or not self.waiting):
                return
            stop.check()
            done, _ = self.cluster.ray.wait(list(self.calls), timeout=WAIT_SECONDS)
            yield from (report for ref in done if (report := self._returned(ref)) is not None)

    def give_up(self) -> None:
        """End the calls, and wait until the actors have removed unfinished files."""
        opened = [actor.handle for actor in self.actors.values() if actor.is_open]
        if opened:
            ends = [handle.give_up.remote() for handle in opened]
            self.cluster.ray.wait(ends, num_returns=len(ends), timeout=GIVE_UP_SECONDS)

    def _hire(self) -> None:
        """Start an actor on every node that has none; raises UnavailableError if there is no such node and no actor."""
        if time.monotonic() - self.looked < NODES_SECONDS:
            return
        self.looked = time.monotonic()
        for node, resources in self.cluster.nodes().items():
            if node not in self.actors and self.unopened[node] < TRIES:
                cpus = int(resources["CPU"])
                threads = local_means(cpus).threads
                handle = self.cluster.actor(node, cpus, threads + 1)  # `give_up` is called while parts are scored
                actor = self.actors[node] = _Actor(node, handle, threads)
                opened = actor.handle.open.remote(self.orders, cpus, resources.get("memory", math.inf))
                self.calls[opened] = actor, None
        if not self.actors:
            raise UnavailableError(f"address: expected a Ray cluster with a node that can score, got {self.reason}")

    def _give(self) -> None:
        """Give parts to free actors, first to those that have the fewest images."""
        while self.waiting:
            free = [actor for actor in self.actors.values() if actor.is_free]
            if not free:
                return
            actor, number = min(free, key=lambda each: each.images), self.waiting.popleft()
            begun = actor.handle.run.remote(detached(self.job.part(number)), again=number in self.lost)
            self.calls[begun] = actor, number
            actor.load[number] = self.job.count(number)

    def _returned(self, ref: Any) -> PartReport | None:  # noqa: ANN401 (an extra)
        """Return the report of a call that has returned; None if it has scored no part. Raises the call's error."""
        actor, number = self.calls[ref]
        try:
            report: PartReport | None = self.cluster.ray.get(ref)
        except self.cluster.ray.exceptions.RayTaskError as error:
            if number is None or not isinstance(error.cause, StoppedError):
                raise error.cause from error
            self._take_back(ref, number)
            return None
        except self.cluster.ray.exceptions.RayError as error:
            self._lose(actor, error)
            return None
        del self.calls[ref]
        if number is None:
            actor.is_open = True
            return None
        del actor.load[number]
        return report

    def _take_back(self, ref: Any, number: int) -> None:  # noqa: ANN401 (an extra)
        """Take back a part whose actor has stopped because another of its parts has failed; that error follows."""
        actor, _ = self.calls.pop(ref)
        actor.is_open = False
        del actor.load[number]
        self.waiting.append(number)

    def _lose(self, actor: _Actor, error: Exception) -> None:
        """Take back the parts of an actor that has ended; raises UnavailableError if the next actor would end too."""
        self.calls = {ref: call for ref, call in self.calls.items() if call[0] is not actor}
        self.waiting.extendleft(actor.load)
        self.lost.update(actor.load)
        del self.actors[actor.node]
        self.cluster.ray.kill(actor.handle)
        self.looked, self.reason = -math.inf, _reason(error)
        if getattr(error, "actor_init_failed", False):
            raise UnavailableError(f"ray: expected fullconv on every node, got {self.reason}")
        if actor.node in self.cluster.nodes():
            self._count(actor)

    def _count(self, actor: _Actor) -> None:
        """Count the end of an actor whose node is alive; raises UnavailableError if a part has ended TRIES actors."""
        self.ended.update([*actor.load])
        self.unopened[actor.node] += not actor.is_open
        for number in actor.load:
            if self.ended[number] == TRIES:
                raise UnavailableError(
                    f"part {number}: expected a process that scores it, got the end of {TRIES}: {self.reason}"
                )


def detached(part: Part) -> Part:
    """Return a part whose table does not refer to the memory of the whole job's table, which would be sent with it."""
    table = part.images.table
    return Part(part.number, Listing(table.take(pa.array(range(table.num_rows), pa.int64())), part.images.raw))


def _reason(error: Exception) -> str:
    """Return the last line of an error: the lines before it are Ray's."""
    return (str(error).strip().splitlines() or [repr(error)])[-1].strip()
