"""The right to write into a place for results, which only one run of a job has at a time.

In a directory it is a lock on the file `.lock`, which the system releases when the process ends, even if it is killed.
In a bucket it is an object that the run renews every RENEW_SECONDS; a run that has not renewed it for EXPIRY_SECONDS
has ended. Stores have no exclusive creation in common. A run therefore writes its name, and reads it again after
SETTLE_SECONDS: of two runs that start at the same time, the later writer has the lease.

A run of a shard holds the lease of its shard, so that shards run beside each other, and not beside a run of the whole
job.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from fullconv.common.files import OutputError, make_folder_of
from fullconv.common.temporary import locked
from service.batch.stores import LocalStore, RemoteStore, Store

RENEW_SECONDS, EXPIRY_SECONDS, SETTLE_SECONDS = 20.0, 90.0, 1.0
LEASES, WHOLE = "leases", "shard-0-of-1"
"""The folder of the leases of a bucket, and the name of the lease of the whole job."""


class LeaseError(Exception):
    """Another run writes into this place."""


@contextmanager
def lease(store: Store, number: int = 0, count: int = 1) -> Iterator[None]:
    """Hold the lease of a shard for the duration of the block; of the whole job, if there is one shard.

    Raises LeaseError, OutputError.
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
        with _remote(store, name):
            yield


@contextmanager
def _local(root: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    path = root / f".lock-{name}"
    with ExitStack() as held:
        try:
            path.touch()
            held.enter_context(locked(path, shared=shared))
        except BlockingIOError:
            raise LeaseError(f"{root}: another run of this job is writing here: wait until it has ended") from None
        except OSError as error:
            raise OutputError(f"{path}: cannot be locked: {error.strerror or error}") from None
        yield


@contextmanager
def _remote(store: RemoteStore, name: str) -> Iterator[None]:
    place, owner = f"{LEASES}/{name}.json", secrets.token_hex(8)
    for held in store.names(LEASES):
        if name == WHOLE or held in (f"{WHOLE}.json", f"{name}.json"):
            _check_free(store, f"{LEASES}/{held}")
    store.write(place, _document(owner))
    time.sleep(SETTLE_SECONDS)
    if _read(store, place).get("owner") != owner:
        raise LeaseError(f"{place}: another run of this job has started at the same time: wait until it has ended")
    ended = Event()
    renewing = Thread(target=_renew, args=(store, place, owner, ended), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        store.remove(place)


def _renew(store: RemoteStore, place: str, owner: str, ended: Event) -> None:
    """Renew a lease until the run ends. A renewal that fails is tried again at the next time."""
    while not ended.wait(RENEW_SECONDS):
        with suppress(OutputError):
            store.write(place, _document(owner))


def _check_free(store: RemoteStore, place: str) -> None:
    """Raise LeaseError if another run holds a lease."""
    held = _read(store, place)
    age = time.time() - float(held.get("renewed", 0.0))
    if age < EXPIRY_SECONDS:
        raise LeaseError(
            f"{place}: another run of this job, process {held.get('process')} on {held.get('host')}, was writing "
            f"{age:.0f} s ago: wait until it has ended; the lease of a run that was killed ends after "
            f"{EXPIRY_SECONDS:.0f} s"
        )


def _read(store: RemoteStore, place: str) -> dict[str, Any]:
    """Return the content of a lease; empty if there is none."""
    with suppress(ValueError):
        found = json.loads(store.read(place) or b"{}")
        if isinstance(found, dict):
            return found
    return {}


def _document(owner: str) -> bytes:
    held = {"owner": owner, "host": socket.gethostname(), "process": os.getpid(), "renewed": time.time()}
    return json.dumps(held).encode()
