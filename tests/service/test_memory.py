"""Freed memory that the server keeps for reuse, and freed memory that it returns to the system."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from support.paths import ROOT

from service import machine
from service.server.memory import BUSY_BYTES, MemoryTrimmer

FAULTS = """
import resource, sys
from service import machine

if sys.argv[1] == "kept":
    machine.configure_malloc(128 << 20)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (60 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
THREADS = """
import ctypes, sys, tempfile, threading
from service import machine

if sys.argv[1] == "few":
    machine.configure_malloc(128 << 20)
libc, all_there, done = ctypes.CDLL(None), threading.Barrier(17), threading.Event()

def take():
    libc.malloc(2000)
    all_there.wait()
    done.wait()

for _ in range(16):
    threading.Thread(target=take).start()
all_there.wait()
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
with tempfile.NamedTemporaryFile("r") as file:
    told = libc.fopen(file.name.encode(), b"w")
    libc.malloc_info(0, told)
    libc.fclose(told)
    print(file.read().count("<heap nr="))
done.set()
"""
ARENA = """
from pathlib import Path
import numpy as np
from service import machine
from service.engine.repository import ModelRepository
from service.engine.session import Session

def held():
    machine.trim_heap()
    return int(Path("/proc/self/statm").read_text().split()[1])

session = Session(ModelRepository(Path("models")).open("digits", "1"))
tile = np.random.default_rng(0).integers(0, 256, (2048, 2048, 1), np.uint8)
session.shrink_arena()
first = held()
scores = session.score([tile])
ran = held()
session.shrink_arena()
rested = held()
score = session._score_batch

def scored_and_rested(*arguments):
    scores = score(*arguments)
    session.shrink_arena()
    return scores

session._score_batch = scored_and_rested
assert np.array_equal(session.score([tile]), scores)
session._score_batch = score
session.shrink_arena()
print(ran - first, rested - first, held() - first)
"""


def numbers(program: str, *arguments: str) -> list[int]:
    """Return the numbers that a program prints in a new process."""
    command = [sys.executable, "-c", program, *arguments]
    return [int(word) for word in subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.split()]


def test_blocks_are_kept() -> None:
    """With the allocator configured, a block of a message's size is reused; by default its pages are returned."""
    (kept,) = numbers(FAULTS, "kept")
    (given_back,) = numbers(FAULTS, "as it is")
    assert kept < 100
    assert given_back > 10_000


def test_threads_share_their_memory() -> None:
    """With the allocator configured, many threads share few arenas; by default there are more."""
    (few,) = numbers(THREADS, "few")
    (many,) = numbers(THREADS, "as it is")
    assert few == machine.ARENAS < many


def test_shrinking_the_arena_frees_activations() -> None:
    """Shrinking the arena frees the activations of a large tile, also of a tile that ran at the same time."""
    ran, rested, rested_again = numbers(ARENA)
    assert max(rested, rested_again) < ran / 4


@pytest.mark.parametrize(("received", "trims"), [([0, 1], 2), ([BUSY_BYTES, 0], 1), ([BUSY_BYTES] * 2, 0)])
def test_an_idle_server_returns_memory(received: list[int], trims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server trims its memory in rounds with few received bytes, and keeps it in busy rounds."""
    done: list[str] = []
    monkeypatch.setattr(machine, "trim_heap", lambda: done.append("allocator"))
    registry: Any = SimpleNamespace(shrink_arena=lambda: done.append("sessions"))
    calls: Any = SimpleNamespace(received_bytes=0)
    trimmer = MemoryTrimmer(registry, calls)
    for count in received:
        calls.received_bytes += count
        asyncio.run(trimmer.trim_if_idle())
    assert done == ["sessions", "allocator"] * trims
