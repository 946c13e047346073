"""The right to write into a place for results, which only one run of a job has at a time.

In a directory it is a lock on the file `.lock`, which the system releases when the process ends, even if it is killed.
In a bucket it is an object that the run creates, exclusively where the store can do so, and renews every
RENEW_SECONDS. A run that finds the object of another run watches it, and compares no clocks, which differ between
machines: if the object changes, the other run is alive, and this run is refused; if it has not changed for
EXPIRY_SECONDS, the other run has ended. Not every store has exclusive creation. A run therefore reads its object again
after SETTLE_SECONDS: of two runs that have written it, the later writer has the lease. A run that finds another run's
name when it renews its lease stops.

A run of a shard holds the lease of its shard, so that shards run beside each other, and not beside a run of the whole
job.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from fullconv.common.files import OutputError, make_folder_of
from fullconv.common.temporary import locked
from service.batch.stop import StoppedError
from service.batch.stores import LocalStore, RemoteStore, Store

RENEW_SECONDS, EXPIRY_SECONDS, SETTLE_SECONDS = 20.0, 90.0, 1.0
WATCH_SECONDS = 2.0
"""Seconds between two looks at the lease of another run."""
LEASES, WHOLE = "leases", "shard-0-of-1"
"""The folder of the leases of a bucket, and the name of the lease of the whole job."""


class LeaseError(Exception):
    """Another run writes into this place."""


@dataclass(frozen=True)
class Waiting:
    """What a run does while it waits for its lease."""

    pause: Callable[[float], object] = time.sleep
    """Waits for a number of seconds; may raise to stop."""
    announce: Callable[[str], object] = lambda _: None
    """Takes the reason for a long wait."""


@contextmanager
def lease(
    store: Store,
    number: int = 0,
    count: int = 1,
    *,
    lost: Callable[[], None] = lambda: None,
    waiting: Waiting = Waiting(),
) -> Iterator[None]:
    """Hold the lease of a shard for the duration of the block; of the whole job, if there is one shard.

    `lost` is called if another run takes the lease of a bucket over, because this run could not renew it; the end of
    the block then raises LeaseError. Raises LeaseError, OutputError, and what `waiting` raises.
    """
    name = f"shard-{number}-of-{count}"
    if isinstance(store, LocalStore):
        make_folder_of(store.root / ".lock-all")
        with ExitStack() as held:
            held.enter_context(_local(store.root, "all", shared=count > 1))
            if count > 1:
                held.enter_context(_local(store.root, name))
            yield
    elif isinstance(store, RemoteStore):
        with _remote(store, name, lost, waiting):
            yield


@contextmanager
def _local(root: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    path = root / f".lock-{name}"
    with ExitStack() as held:
        try:
            path.touch()
            held.enter_context(locked(path, shared=shared, writable=True))
        except BlockingIOError:
            raise LeaseError(f"{root}: another run of this job is writing here; wait until it has ended") from None
        except OSError as error:
            raise OutputError(f"{path}: cannot be locked: {error.strerror or error}") from None
        yield


@contextmanager
def _remote(store: RemoteStore, name: str, lost: Callable[[], None], waiting: Waiting) -> Iterator[None]:
    held = _Held(store, f"{LEASES}/{name}.json", secrets.token_hex(8))
    _wait_until_free(store, {held.place, *_others(store, name)}, waiting)
    try:
        held.take(waiting)
        _wait_until_free(store, _others(store, name), waiting)  # of runs that began at the same time
        with held.renewed(lost):
            yield
    finally:
        held.release()


def _others(store: RemoteStore, name: str) -> set[str]:
    """Return the leases of others that exclude this run's."""
    names = store.names(LEASES) - {f"{name}.json"}
    return {f"{LEASES}/{other}" for other in names if name == WHOLE or other == f"{WHOLE}.json"}


def _wait_until_free(store: RemoteStore, places: set[str], waiting: Waiting) -> None:
    """Return when no run holds one of the leases, and remove those of runs that have ended without a release.

    Raises LeaseError if a run renews its lease.
    """
    held = {place: data for place in sorted(places) if (data := store.read(place)) is not None}
    if held:
        waiting.announce(
            f"{', '.join(held)}: another run was writing here: waiting for at most {EXPIRY_SECONDS:.0f} s, to see "
            "whether it has ended"
        )
    end = time.monotonic() + EXPIRY_SECONDS
    while held and time.monotonic() < end:
        waiting.pause(WATCH_SECONDS)
        held = {place: data for place, data in held.items() if not _is_released(store, place, data)}
    for place in held:
        store.remove(place)


def _is_released(store: RemoteStore, place: str, before: bytes) -> bool:
    """Return whether a lease is gone; raises LeaseError if it has changed."""
    data = store.read(place)
    if data is not None and data != before:
        run = _parsed(data)
        raise LeaseError(
            f"{place}: another run of this job, process {run.get('process')} on {run.get('host')}, is writing here: "
            "wait until it has ended"
        )
    return data is None


@dataclass(frozen=True)
class _Held:
    """The lease of this run in a bucket."""

    store: RemoteStore
    place: str
    owner: str
    """The name of this run, which no other run has."""

    def take(self, waiting: Waiting) -> None:
        """Write the lease; raises LeaseError if another run has written it."""
        if self.store.create(self.place, _document(self.owner)) or self._is_own():
            waiting.pause(SETTLE_SECONDS)
        if not self._is_own():
            raise LeaseError(
                f"{self.place}: another run of this job has started at the same time; wait until it has ended"
            )

    def release(self) -> None:
        """Remove the lease, unless another run has taken it over. A lease that cannot be removed expires."""
        with suppress(OutputError, StoppedError):  # a job that has stopped does not try again
            if self._is_own():
                self.store.remove(self.place)

    @contextmanager
    def renewed(self, lost: Callable[[], None]) -> Iterator[None]:
        """Renew the lease during the block.

        If another run has taken it over, `lost` is called, and the end of the block raises LeaseError.
        """
        ended, taken_over = Event(), Event()
        renewing = Thread(target=self._renew, args=(ended, taken_over, lost), name="lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
        if taken_over.is_set():
            raise LeaseError(
                f"{self.place}: another run of this job has begun, because this run could not renew its lease for "
                f"{EXPIRY_SECONDS:.0f} s; wait until it has ended"
            )

    def _renew(self, ended: Event, taken_over: Event, lost: Callable[[], None]) -> None:
        """Renew the lease until the run ends. A renewal that fails is tried again at the next time."""
        while not ended.wait(RENEW_SECONDS):
            with suppress(OutputError, StoppedError):
                if self._is_another():
                    taken_over.set()
                    lost()
                    return
                self.store.write(self.place, _document(self.owner))

    def _is_own(self) -> bool:
        return bool(_read(self.store, self.place).get("owner") == self.owner)

    def _is_another(self) -> bool:
        """Return whether another run holds the lease; False if somebody has removed it."""
        return bool(_read(self.store, self.place).get("owner", self.owner) != self.owner)


def _read(store: RemoteStore, place: str) -> dict[str, Any]:
    """Return the content of a lease; empty if the lease does not exist or is damaged."""
    return _parsed(store.read(place) or b"{}")


def _parsed(data: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(data)
        if isinstance(found, dict):
            return found
    return {}


def _document(owner: str) -> bytes:
    held = {"owner": owner, "host": socket.gethostname(), "process": os.getpid(), "renewed": time.time()}
    return json.dumps(held).encode()
