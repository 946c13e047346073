"""Conversion of networks for tests, without a progress display."""

from pathlib import Path
from typing import Any

from support.networks import Network

from converter import convert as conversion
from converter.sources.read import read_source

SILENT = conversion.Progress(step=lambda _, __: None, advance=lambda: None)


def convert_into(models: Path, network: Network, **options: Any) -> Path:
    """Convert a network as version 1 of the model that has its name; returns the model repository."""
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    target = models / network.architecture.name / "1"
    conversion.convert(classifier, conversion.Request(target, windows=8, **options), SILENT)
    return models
