"""Fixtures for every test, and the threads of a process among several."""

import importlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from support.conversion import convert_into
from support.paths import ROOT
from support.threads import use_one_thread

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    use_one_thread()


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are CPUs, since tests of servers often wait."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture
def keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return Keras with its PyTorch backend, independent of the user's settings; `keras_nets` becomes importable."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.syspath_prepend(ROOT / "tests" / "data")
    return importlib.import_module("keras")


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that converts a network into the test's own model repository and returns the repository."""
    return partial(convert_into, tmp_path / "models")
