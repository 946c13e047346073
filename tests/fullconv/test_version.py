"""The options for the version of the program and for the version of the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT
from support.pictures import noise, png

from fullconv import __version__

COMMAND = [sys.executable, "-c", "from fullconv.command.cli import main; main()"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a small image."""
    path = tmp_path / "image.png"
    path.write_bytes(png(noise(90, 111, 1)))
    return path


@pytest.mark.slow
def test_versions(image: Path) -> None:
    """`--version` alone prints the program's version; with a value it chooses the version of the model."""
    assert run("--version").stdout == f"fullconv-score {__version__}\n"
    ways = (
        ["digits/1"],
        ["digits", "--version", "1"],
        ["digits", "--model-version", "1"],
        ["digits/1", "--version", "1"],
    )
    for way in ways:
        result = run(image, "--json", "--models", ROOT / "models", "--model", *way)
        assert json.loads(result.stdout)["version"] == "1"
    other = run(image, "--models", ROOT / "models", "--model", "digits/1", "--version", "2")
    assert other.returncode == 2
    assert "expected one version, got 'digits/1' and '2'" in other.stderr
