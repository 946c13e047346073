"""The number of threads in which networks compute follows from the machine: its CPUs, its cores, and a measurement."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort
import pytest
from support.paths import ROOT

from service import machine
from service.engine import thread_count as measurement
from service.engine.thread_count import thread_count

SESSION = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from service.engine.repository import ModelRepository
from service.engine.executables import Threads
from service.engine.session import Session
before = len(os.listdir("/proc/self/task"))
threads = Threads(*(int(value) for value in sys.argv[1:]))
session = Session(ModelRepository(Path("models")).open("digits", "1"), threads=threads)
print(len(os.listdir("/proc/self/task")) - before)
"""
"""Prints the number of threads that a session of ONNX Runtime starts beside the one that calls it, on one CPU."""


@pytest.fixture(autouse=True)
def _two_cpus_for_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for a machine with two cores of two CPUs, and keep measurements in a directory of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "cpus", lambda: 4)


def rule(monkeypatch: pytest.MonkeyPatch, times: Mapping[int, float], use: float = 1.0) -> list[Sequence[int]]:
    """Let measurements have given results; returns the numbers of threads that are measured."""
    measured = list[Sequence[int]]()

    def result(counts: Sequence[int]) -> tuple[dict[int, list[float]], float]:
        measured.append(counts)
        return {count: [times[count]] for count in counts}, use

    monkeypatch.setattr(measurement, "_measured", result)
    return measured


@pytest.mark.parametrize(
    ("of_cores", "of_cpus", "threads"),
    [(1.0, 0.9, 4), (1.0, 0.96, 2), (1.0, 1.2, 2)],
    ids=["faster", "equal", "slower"],
)
def test_more_threads_need_a_gain(
    of_cores: float, of_cpus: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All CPUs compute if this is faster; otherwise one CPU of each core does."""
    rule(monkeypatch, {2: of_cores, 4: of_cpus})
    assert thread_count() == threads


def test_cores_of_one_cpu_need_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each core has one CPU, all of them compute."""
    monkeypatch.setattr(machine, "cores", lambda: 4)
    measured = rule(monkeypatch, {})
    assert thread_count() == 4
    assert not measured


def test_measurements_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start reads what the first has measured; other cores are measured again."""
    measured = rule(monkeypatch, {1: 1.0, 2: 1.0, 4: 0.5})
    assert (thread_count(), thread_count()) == (4, 4)
    assert measured == [(2, 4)]
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert thread_count() == 4
    assert measured == [(2, 4), (1, 4)]


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"threads": 3}', '{"threads": "2"}'])
def test_damaged_measurements_are_made_again(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is damaged or has a number that does not suit the machine counts as none."""
    measured = rule(monkeypatch, {2: 1.0, 4: 0.5})
    thread_count()
    [file] = (tmp_path / "cache" / "fullconv" / "threads").iterdir()
    file.write_text(kept)
    thread_count()
    assert len(measured) == 2
    assert json.loads(file.read_text()) == {"threads": 4}


def test_disturbed_measurements_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """If threads waited for a CPU, each CPU gets a thread, and the next start measures again."""
    measured = rule(monkeypatch, {2: 1.0, 4: 1.2}, use=0.7)
    assert (thread_count(), thread_count()) == (4, 4)
    assert len(measured) == 2


def test_threads_are_measured() -> None:
    """Each number of threads is timed, and no thread has a CPU for longer than it runs."""
    times, use = measurement._measured((1, 2))  # noqa: SLF001 (the numbers that the rules above stand for)
    assert [len(times[count]) for count in (1, 2)] == [3, 3]
    assert 0 < use < 1.1


def test_the_network_is_no_trifle() -> None:
    """The network that is measured has convolutions whose weights ONNX Runtime knows when it loads them."""
    session = ort.InferenceSession(measurement.CONVOLUTIONS, providers=["CPUExecutionProvider"])
    [image], [maps] = session.get_inputs(), session.get_outputs()
    assert tuple(image.shape) == tuple(maps.shape) == measurement.INPUT_SHAPE


@pytest.mark.parametrize(
    ("threads", "started"),
    [([], 0), (["1"], 0), (["3"], 2), (["3", "1000000000"], 0)],
    ids=["one CPU", "one", "three", "three runs"],
)
def test_sessions_start_as_many_threads(threads: list[str], started: int) -> None:
    """A session computes in the number of threads that it was given, by default one for each core of the process.

    The process may use one CPU: ONNX Runtime's own default would be a thread for each core of the machine. If small
    tiles run in one thread each, the caller is this thread.
    """
    command = [sys.executable, "-c", SESSION, *threads]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == started
