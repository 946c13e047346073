"""The connection to a Ray cluster: its nodes, and an actor on each of them.

Ray places the actors, starts the process of an actor again, on the same node, if it has ended, and then repeats the
actor's calls. An actor whose node is lost ends for good, because it is bound to the node: on another node it would wait
for CPUs that the actor of that node never leaves.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.errors import RequestError, UnavailableError
from service.batch.node_worker import NodeWorker

REACH_SECONDS = 10.0
"""Seconds in which a connection to the cluster is made."""
PROCESSES = 3
"""Number of processes of an actor that may end; then the actor has ended for good."""
ENDLESS = -1
"""No limit, for Ray: an actor's calls end with the actor."""


@dataclass(frozen=True)
class RayCluster:
    """A cluster that can be connected to."""

    ray: Any
    """The package."""
    address: str
    """"auto" or HOST:PORT."""

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
                    f"address: expected a Ray cluster at {self.address}, got {reason_of(error)}; start it with ray "
                    "start"
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
        """Return a new actor, which starts when the CPUs of its node are free.

        It works on at most `calls` calls at the same time. They fail when PROCESSES processes of the actor have ended,
        or when the node is lost.
        """
        options = {
            "num_cpus": cpus,
            "max_concurrency": calls,
            "max_restarts": PROCESSES - 1,
            "max_task_retries": ENDLESS,
            "scheduling_strategy": self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False),
        }
        return self.ray.remote(**options)(NodeWorker).remote()


def load_ray() -> Any:  # noqa: ANN401 (an extra)
    """Return the package; raises RequestError if it is not installed."""
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ImportError:
        raise RequestError("engine: expected the package ray for --engine ray, got none; pip install ray") from None
    return ray


def reason_of(error: Exception) -> str:
    """Return the last line of an error: the lines before it are Ray's."""
    return (str(error).strip().splitlines() or [repr(error)])[-1].strip()
