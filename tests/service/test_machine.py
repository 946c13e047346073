"""The CPUs and the memory that the limits of control groups leave to the server."""

import os
from pathlib import Path

import pytest

from service import machine

CPUS = len(os.sched_getaffinity(0))
PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
UNLIMITED_V1 = str((1 << 63) - 4096)
"""The limit of memory that version 1 shows if there is no limit."""


def cgroup(folder: Path, files: dict[str, str]) -> Path:
    """Write the files of a control group below a folder; returns the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


def quota_v1(quota: int, period: int) -> dict[str, str]:
    """The files of a CPU quota in version 1, in microseconds."""
    return {"cpu/cpu.cfs_quota_us": str(quota), "cpu/cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, CPUS),
        (quota_v1(50_000, 100_000), 1),
        (quota_v1(100_000 * CPUS - 50_000, 100_000), CPUS),
        (quota_v1(100_000 * (CPUS + 7), 100_000), CPUS),
        (quota_v1(-1, 100_000), CPUS),
        ({"cpu.max": "50000 100000", **quota_v1(-1, 100_000)}, 1),
        ({}, CPUS),
    ],
    ids=["v2", "v2 without", "v1", "v1 rounded up", "v1 above the machine", "v1 without", "both", "none"],
)
def test_cpu_quotas(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    """The CPU quota of either version of control groups limits the CPUs, rounded up; it never adds CPUs."""
    assert machine.cpus(cgroup(tmp_path, files)) == cpus


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"memory.max": "1048576"}, 1 << 20),
        ({"memory.max": "max"}, PHYSICAL),
        ({"memory/memory.limit_in_bytes": "1048576"}, 1 << 20),
        ({"memory/memory.limit_in_bytes": UNLIMITED_V1}, PHYSICAL),
        ({"memory.max": "1048576", "memory/memory.limit_in_bytes": UNLIMITED_V1}, 1 << 20),
        ({}, PHYSICAL),
    ],
    ids=["v2", "v2 without", "v1", "v1 without", "both", "none"],
)
def test_memory_limits(tmp_path: Path, files: dict[str, str], memory: int) -> None:
    """The memory limit of either version of control groups applies; without a limit, the memory of the machine."""
    assert machine.memory_bytes(cgroup(tmp_path, files)) == memory


@pytest.mark.parametrize(
    ("siblings", "cpus", "cores"),
    [
        (["0,2", "1,3", "0,2", "1,3"], 4, 2),
        (["0-1", "0-1", "2-3", "2-3"], 1, 1),
        (["0-1", "0-1", "2-3", "2-3"], 3, 2),
        (["0", "1", "2", "3"], 4, 4),
        (["0", "1", "2"], 4, 4),
        ([], 4, 4),
    ],
    ids=["two CPUs each", "smaller quota", "larger quota", "one CPU each", "one is not known", "none is known"],
)
def test_cores(siblings: list[str], cpus: int, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs of one core count once; where the system does not describe them, each CPU counts as a core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(4)}, raising=False)
    monkeypatch.setattr(machine, "cpus", lambda: cpus)
    for cpu, text in enumerate(siblings):
        topology = tmp_path / "devices" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n")
    assert machine.cores(tmp_path / "devices") == cores
