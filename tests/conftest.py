"""What every test may ask for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from networks import Network

from converter import convert as conversion
from converter.sources.read import read_source

ROOT = Path(__file__).parents[1]
SILENT = conversion.Progress(step=lambda _, __: None, advance=lambda: None)


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Path]:
    """Convert a network into a model repository of its own, and return the repository."""

    def run(network: Network, **options: object) -> Path:
        classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
        target = tmp_path / "models" / network.architecture.name / "1"
        conversion.convert(classifier, conversion.Request(target, windows=8, **options), SILENT)
        return target.parents[1]

    return run
