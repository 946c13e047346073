"""Whatever a server or a file's name says, what is printed, drawn or put into HTML is printable."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.hostile_servers import ChangedServicer, babbling, serving
from support.malformed_answers import PIXELS
from support.paths import ROOT
from support.pictures import png
from typer.testing import CliRunner, Result

from fullconv import Client, ImageError, UnavailableError
from fullconv.command import progress
from fullconv.command.cli import app
from fullconv.common.text import counted
from fullconv.heatmap.content import shortened
from fullconv.protos import scoring_pb2
from fullconv.remote.connection import error_of

NASTY = "[red]\x1b[2J\x9b31m\u202e\x85\u2028\x7f"
"""Markup of rich, and sequences, bidirectional and line controls that change what a terminal shows."""
PRINTED = "[red]?[2J?31m????"


def nasty(response: scoring_pb2.ScoreResponse) -> None:
    """Put NASTY into every text of an answer that may be any text."""
    for entry in response.classes:
        entry.label = f"{entry.index}{NASTY}"
    response.mode_reason = response.plan.file = NASTY
    response.warnings.append(NASTY)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server whose answers have NASTY in every text."""

    def nasty_start(parts: list[scoring_pb2.ScoreLargeResponse]) -> None:
        nasty(parts[0].start)
        if len(parts) > 1:
            nasty(parts[-1].summary)

    servicer = ChangedServicer()
    servicer.changes = {"Score": nasty, "ScoreLarge": nasty_start}
    with serving(servicer) as address:
        yield address


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image whose name has control characters."""
    path = tmp_path / "im\x1b[2Jage.png"
    path.write_bytes(png(PIXELS))
    return path


def command(*arguments: object) -> Result:
    """Run fullconv-score."""
    return CliRunner().invoke(app, [*map(str, arguments), "--model", "digits"])


def assert_printable(text: str) -> None:
    """Every line is printable."""
    assert all(line.isprintable() for line in text.split("\n")), text


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (1, "class", "1 class"), (11, "class", "11 classes")],
)
def test_counts_agree_with_their_nouns(count: int, noun: str, expected: str) -> None:
    """A number is followed by the singular for 1, and by the plural for others."""
    assert counted(count, noun) == expected


@pytest.mark.parametrize("option", [[], ["--plan"]], ids=["scores", "plan"])
def test_tables(address: str, image: Path, option: list[str]) -> None:
    """Labels, reasons, warnings and names of files are printed without control characters and without markup."""
    result = command(image, "--server", address, *option)
    assert result.exit_code == 0, result.stderr
    assert_printable(result.stdout)
    assert PRINTED in result.stdout
    assert "im?[2Jage.png" in result.stdout


def test_json(address: str, image: Path) -> None:
    """JSON escapes control characters, and its reader gets the labels as they are."""
    result = command(image, "--server", address, "--json")
    assert_printable(result.stdout)
    assert result.stdout.isascii()
    assert json.loads(result.stdout)["average"]["top"][0]["label"].endswith(NASTY)


def test_notebooks(address: str, image: Path) -> None:
    """The HTML of an answer is printable, and what looks like an element is text."""
    with Client(address) as client:
        answer = client.score(image, model="digits")
    html = answer._repr_html_()
    assert_printable(html)
    assert PRINTED in html
    assert_printable(repr(answer))


def test_labels_in_pictures() -> None:
    """Labels in heatmaps and their legends are printable."""
    assert shortened(f"a\n{NASTY}") == "a [red]?[2J?31m? ?"


@pytest.mark.parametrize("is_terminal", [False, True], ids=["lines", "bar"])
def test_progress(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> None:
    """Progress shows the name of a file without its control characters."""
    path = tmp_path / "im\x1b[2Jage.npy"
    np.save(path, PIXELS)
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    result = command(path, "--server", address)
    assert result.exit_code == 0
    assert "im?[2Jage.npy: " in result.stderr
    assert "\x1b[2J" not in result.stderr


def test_refused_outputs(image: Path) -> None:
    """A file's name in an error of the command line is printable."""
    result = command(image, "--models", ROOT / "models", "--heatmap", image)
    assert result.exit_code == 2
    assert "im?[2Jage.png, which is an image or a mask" in " ".join(result.stderr.split())
    assert "\x1b" not in result.stderr


def test_errors_of_servers() -> None:
    """The text of an error status is printable and short."""
    refused = error_of("a:1", grpc.StatusCode.INVALID_ARGUMENT, NASTY)
    failed = error_of("a:1", grpc.StatusCode.INTERNAL, NASTY * 100_000)
    assert (type(refused), str(refused)) == (ImageError, PRINTED)
    assert isinstance(failed, UnavailableError)
    assert str(failed).isprintable()
    assert len(str(failed)) < 1100


def test_bytes_that_are_no_message_are_one_line(image: Path) -> None:
    """GRPC's own log of an answer that cannot be parsed, a traceback, does not reach the terminal."""
    arguments = [sys.executable, "-m", "fullconv", str(image), "--model", "digits", "--server"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with babbling() as address:
        result = subprocess.run(
            [*arguments, address], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"fullconv-score: {address}: INTERNAL: ")
