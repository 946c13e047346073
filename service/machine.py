"""What this machine, or the container on it, lets a process use: Linux's control groups first, then the system."""

import ctypes
import gc
import os
import sys
import threading
from pathlib import Path

NICE = 10
CGROUP = Path("/sys/fs/cgroup")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX, MOST = -1, -3, -8, (1 << 31) - 1
"""Of mallopt(3)."""
ARENAS = 2
"""That threads take memory from: of eight a CPU, each would keep what only it can use again."""


def cpus() -> int:
    """CPUs to use: those of the quota, rounded up, of those that this process may run on."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = (*_words("cpu.max"), "max", "100000")[:2]
    return mine if not quota.isdecimal() else max(1, min(mine, -(-int(quota) // int(period))))


def memory_bytes() -> int:
    """Bytes of memory to use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = (*_words("memory.max"), "max")[0]
    return whole if not most.isdecimal() else min(whole, int(most))


def lower_priority() -> None:
    """Let this thread, and those that it starts, have the CPU after others: who answers comes before who computes."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(nice, NICE))


def configure_malloc(block_bytes: int) -> None:
    """Have the allocator keep what is freed, for the next of its kind, and blocks of so many bytes too; before threads.

    Else each large one comes from the system page by page, which is most of the time that a message of 62 MiB takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, min(block_bytes, MOST)):  # old releases refuse large blocks
        mallopt(M_TRIM_THRESHOLD, MOST)
        mallopt(M_ARENA_MAX, ARENAS)


def trim_heap() -> None:
    """Return what the allocator keeps of memory that is free: large images leave gigabytes of it in every thread.

    What only refers to itself is freed first: a call that was left in the middle leaves its strip so, with its error.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def _words(file: str) -> list[str]:
    try:
        return (CGROUP / file).read_text("ascii").split()
    except OSError:
        return []
