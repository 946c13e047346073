"""Small tiles run in one thread each, and large ones in all threads; the file is loaded for what runs."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT

from service import machine
from service.engine.backend import REFERENCE, Backend
from service.engine.checks import Checks
from service.engine.executables import Executables, Threads
from service.engine.loader import Loader, LoadOptions
from service.engine.onnx_runtime import OnnxRuntimeExecutable
from service.engine.repository import ModelRepository
from service.engine.session import RunSizes, Session, SingleRuns
from service.errors import ModelError

DIGITS = ModelRepository(ROOT / "models").open("digits", "1")
SIDE = 100
"""Side in pixels of the largest tile that runs in one thread."""


def tile(side: int) -> np.ndarray:
    """Return noise."""
    return np.random.default_rng(0).integers(0, 256, (side, side, 1), np.uint8)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of threads of each file that is loaded."""
    counts = list[int]()

    class Executable(OnnxRuntimeExecutable):
        def __init__(self, file: Path, backend: Backend, *, threads: int, engines: str = "") -> None:
            counts.append(threads)
            super().__init__(file, backend, threads=threads, engines=engines)

    monkeypatch.setattr("service.engine.executables.OnnxRuntimeExecutable", Executable)
    return counts


def session_of(count: int) -> Session:
    """Return a session of the digits model whose tiles of at most SIDE² pixels run in one thread."""
    of_pixel = DIGITS.spec.cost[0].activation_bytes_per_pixel
    return Session(DIGITS, threads=Threads(count, single_bytes=SIDE**2 * of_pixel))


def test_files_are_loaded_when_they_are_needed(loaded: list[int]) -> None:
    """The file is loaded for all threads when the first such run comes. The scores of both are the same."""
    session, plain = session_of(2), Session(DIGITS, threads=Threads(2))
    assert loaded == [1, 2]
    for single, expected in ((True, [1, 2]), (False, [1, 2, 2]), (True, [1, 2, 2])):
        assert np.array_equal(session.score([tile(2 * SIDE)], single=single), plain.score([tile(2 * SIDE)]))
        assert loaded == expected
    session.shrink_arena()


def test_small_tiles_run_beside_each_other() -> None:
    """As many runs of small tiles go on as there are threads, each in one thread, and one run of a larger tile."""
    assert session_of(3).run_sizes == RunSizes(SIDE**2, single=SingleRuns(SIDE**2, 3))


@pytest.mark.parametrize("count", [1, 2])
def test_one_thread_needs_no_second_file(count: int, loaded: list[int]) -> None:
    """A network that computes in one thread is loaded once, as is one whose tiles all run in all threads."""
    session = session_of(1) if count == 1 else Session(DIGITS, threads=Threads(count))
    for side in (SIDE, 2 * SIDE):
        session.score([tile(side)])
    assert loaded == [count]
    assert session.run_sizes is None


def test_other_providers_run_in_all_threads() -> None:
    """OpenVINO and GPUs divide the work of a run themselves."""
    assert Threads(4, single_bytes=1e9).single_of(REFERENCE) == 1e9
    assert not Threads(4, single_bytes=1e9).single_of(Backend("openvino", "bf16"))


def test_a_file_that_has_gone_is_an_error(tmp_path: Path) -> None:
    """A file that is removed before the first large tile gives an error that says what to do."""
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "digits")
    executables = Executables(ModelRepository(tmp_path).open("digits", "1"), 0, REFERENCE, Threads(2, single_bytes=1.0))
    executables.get(single=True)
    (tmp_path / "digits" / "1" / "model.onnx").unlink()
    with pytest.raises(ModelError, match="cpu cannot load it; convert the model again"):
        executables.get(single=False)


@pytest.mark.parametrize("limited", [True, False])
def test_servers_load_networks_with_the_priority_of_compute(limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """The threads of a network have the priority of the thread that loads it, which is low on a server."""
    priorities = list[int]()

    def load(*_: object, **__: object) -> None:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    monkeypatch.setattr("service.engine.loader.Session", load)
    checks = Checks(ROOT / "models", seconds=60, memory_bytes=1 << 30) if limited else None
    Loader(ModelRepository(ROOT / "models"), LoadOptions(checks=checks), warm=False).session(DIGITS, 0)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert priorities == [max(own, machine.NICE) if limited else own]
