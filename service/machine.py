"""The CPUs and the memory that this process may use, its priority, and the settings of the C library's allocator.

The limits of Linux control groups, which containers have, take precedence over those of the machine. Version 2 of
control groups has all files in one directory, version 1 a directory for each resource.
"""

import ctypes
import gc
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

NICE = 10
"""Nice value of threads that compute."""
CGROUP = Path("/sys/fs/cgroup")
"""Directory of the control group of this process, as a container sees it."""
DEVICES = Path("/sys/devices/system/cpu")
"""Directory of the processor's CPUs."""
NO_LIMIT = "max"
"""What version 2 of control groups has in place of a number if there is no limit. Version 1 has -1 or a huge number."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX, MAX_VALUE = -1, -3, -8, (1 << 31) - 1
"""Parameters of mallopt(3), and the largest value of a parameter."""
PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that this process gets when its parent ends."""
ARENAS = 2
"""Number of malloc arenas. glibc's default is eight for each CPU, and each arena keeps freed memory that threads of
another arena cannot use."""


def cpus(cgroup: Path = CGROUP) -> int:
    """Return the number of CPUs that this process may use: those of its affinity mask, at most its quota rounded up."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    version_1 = _words(cgroup / "cpu" / "cpu.cfs_quota_us") + _words(cgroup / "cpu" / "cpu.cfs_period_us")
    quota, period = (*(_words(cgroup / "cpu.max") or version_1), NO_LIMIT, "100000")[:2]
    return mine if not quota.isdecimal() else max(1, min(mine, -(-int(quota) // int(period))))


def cores(devices: Path = DEVICES) -> int:
    """Return the number of physical cores that this process may use; at most the number of CPUs."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    topologies = (devices / f"cpu{cpu}" / "topology" for cpu in mine)
    siblings = {" ".join(_words(topology / "thread_siblings_list")) for topology in topologies}
    return min(len(siblings), cpus()) if siblings and all(siblings) else cpus()


def processor() -> str:
    """Return the processor's model and instructions; empty where the system has no /proc/cpuinfo."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n", 1)[0]
    except OSError:
        return ""
    return "\n".join(line for line in first.splitlines() if line.startswith(("model name", "flags", "Features")))


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that this process may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    version_1 = _words(cgroup / "memory" / "memory.limit_in_bytes")
    limit = (*(_words(cgroup / "memory.max") or version_1), NO_LIMIT)[0]
    return physical if not limit.isdecimal() else min(physical, int(limit))


def lower_priority() -> None:
    """Lower the priority of this thread and of the threads that it starts, so that answering comes before computing."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(nice, NICE))


def end_with_parent(parent: int) -> None:
    """Let the system end this process when its parent ends, and before other processes when memory is short.

    `parent` is the number of the parent. If the parent has ended already, this process ends now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):  # not every sandbox has it
            Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(beyond: int) -> None:
    """Limit the address space of this process to `beyond` bytes more than now; a crash leaves no core file."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    most = pages * resource.getpagesize() + beyond
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:  # a batch system has set it, and only root may raise it
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def configure_malloc(block_bytes: int) -> None:
    """Let the allocator keep freed blocks of up to `block_bytes` bytes for reuse. To be called before threads start.

    By default each large block comes from the system page by page, which is most of the time that a message of 62 MiB
    takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    # old releases of glibc refuse large values
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, min(block_bytes, MAX_VALUE)):
        mallopt(M_TRIM_THRESHOLD, MAX_VALUE)
        mallopt(M_ARENA_MAX, ARENAS)


def freeze_heap() -> None:
    """Exempt all objects that exist now from garbage collection: modules, settings and models stay until the end.

    The collector then visits the objects of requests alone. It runs as often as by default: errors refer to the
    messages of their requests in cycles, and more of these messages would wait for it.
    """
    gc.collect()
    gc.freeze()


def trim_heap() -> None:
    """Return the allocator's free memory to the system: large images leave gigabytes of it in every thread.

    The garbage collector runs first: the error of an aborted call may be part of a reference cycle that holds a strip.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)


def _words(file: Path) -> list[str]:
    """Return the words in a file; an empty list if the file cannot be read."""
    try:
        return file.read_text("ascii").split()
    except OSError:
        return []
