"""A signal ends a conversion at any time, and nothing incomplete is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.servers import wait_until

BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64
MAIN = [sys.executable, "-m", "converter"]
STUCK = """
import collections, itertools, os, signal, sys, tempfile
from pathlib import Path

from converter.__main__ import COMMAND, _temporary_files_in_one_folder
from converter.supervision import supervise
from converter.writer import staging
from fullconv.common.interruption import Interruption

interruption = Interruption(COMMAND)
interruption.install()
supervise(interruption)
with _temporary_files_in_one_folder(), staging(Path(sys.argv[1]), force=True) as folder:
    (folder / "weights.data").write_bytes(b"half")
    Path(tempfile.mkdtemp(), "exported.onnx").write_bytes(b"half")
    print(os.getpid(), flush=True)
    if sys.argv[2] == "stuck":
        collections.deque(itertools.repeat(None), maxlen=0)
    signal.pause()
"""
"""Writes a half of a version; then it stays in C, where it holds the interpreter's lock, or it waits in Python."""


@contextmanager
def working(target: Path, kind: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Start a process that has written a half of a version; yields it, and the process id of its child."""
    (target.parents[2] / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(target.parents[2] / "temporary")}
    command = [sys.executable, "-c", STUCK, str(target), kind]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        before = _cpu_ticks(child)
        try:
            wait_until(lambda: kind == "waiting" or _cpu_ticks(child) > before + 10)
            yield process, child
        finally:
            process.kill()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["stuck", "waiting"])
def test_a_signal_ends_work_in_c(tmp_path: Path, kind: str, number: signal.Signals) -> None:
    """A signal ends the command with one line and status 1, also while it works outside of the interpreter."""
    with working(tmp_path / "models" / "net" / "1", kind) as (process, _):
        assert len(files(tmp_path)) == 2
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "fullconv-convert: interrupted\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_several_signals_are_one(tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to both processes, and a second signal leave nothing either."""
    with working(tmp_path / "models" / "net" / "1", "waiting") as (process, child):
        for pid in (child, process.pid, process.pid):
            os.kill(pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "fullconv-convert: interrupted\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_a_crash_leaves_nothing(tmp_path: Path) -> None:
    """If native code crashes, or the system kills the process for its memory, one line says so and nothing is left."""
    with working(tmp_path / "models" / "net" / "1", "stuck") as (process, child):
        os.kill(child, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "fullconv-convert: ended by Killed (signal 9)\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    """SIGKILL ends the work too, and the next conversion into the directory removes what it left."""
    target = tmp_path / "models" / "net" / "1"
    with working(target, "stuck") as (process, child):
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: _state(child)[0] == "Z")
    assert len(files(tmp_path)) == 2
    (tmp_path / "temporary").rename(tmp_path / "old")
    with working(target.with_name("2"), "waiting") as (process, _):
        assert [path.name.partition(".fullconv")[0][:3] for path in target.parent.iterdir()] == [".2."]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1


def _cpu_ticks(pid: int) -> int:
    """The CPU time of a process in user mode, in hundredths of a second."""
    return int(_state(pid)[11])


def _state(pid: int) -> list[str]:
    """The state of a process and its counters, as in proc(5); no counters if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return ["Z"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_onnx_runtime(tmp_path: Path, number: signal.Signals) -> None:
    """A conversion that runs a network without end in ONNX Runtime ends with status 1, and leaves nothing."""
    source, target = tmp_path / "endless.onnx", tmp_path / "models" / "net" / "1"
    onnx.save(endless(), source)
    command = [*MAIN, str(source), "-o", str(target), "--crops-only", "--window", "8"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: files(tmp_path / "models"))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1] == "fullconv-convert: interrupted"
    assert not (tmp_path / "models").exists()


def endless() -> onnx.ModelProto:
    """A classifier of 8×8 pixels whose Loop has 2⁶² iterations."""
    image = helper.make_tensor_value_info("image", FLOAT, [1, 3, 8, 8])
    number, before, after = (
        helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", INT64), ("go", BOOL), ("going", BOOL))
    )
    x, y, scores = (helper.make_tensor_value_info(name, FLOAT, [1, 3]) for name in ("x", "y", "scores"))
    steps = [helper.make_node("Identity", ["go"], ["going"]), helper.make_node("Sin", ["x"], ["y"])]
    body = helper.make_graph(steps, "body", [number, before, x], [after, y])
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Loop", ["times", "", "mean"], ["scores"], body=body),
    ]
    constants = [
        helper.make_tensor("axes", INT64, [2], [2, 3]),
        helper.make_tensor("times", INT64, [], [1 << 62]),
    ]
    graph = helper.make_graph(nodes, "endless", [image], [scores], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
