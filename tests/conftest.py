"""What every test may ask for."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from networks import Network

from converter import convert as conversion
from converter.sources.read import read_source

ROOT = Path(__file__).parents[1]
SILENT = conversion.Progress(step=lambda _, __: None, advance=lambda: None)


@pytest.fixture
def keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Keras on PyTorch, whatever the user's settings are; with the networks of `data/` beside it."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.syspath_prepend(ROOT / "tests" / "data")
    return importlib.import_module("keras")


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Path]:
    """Convert a network into a model repository of its own, and return the repository."""
    return partial(convert_into, tmp_path / "models")


def convert_into(models: Path, network: Network, **options: object) -> Path:
    """Convert a network into a model repository, under its own name; returns the repository."""
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    target = models / network.architecture.name / "1"
    conversion.convert(classifier, conversion.Request(target, windows=8, **options), SILENT)
    return models
