"""The command `fullconv-score` in this process, for the tests of files of grids, and what .csv files hold."""

import csv
from pathlib import Path

import numpy as np
from support.paths import ROOT
from support.pictures import encode, noise
from typer.testing import CliRunner

from fullconv.command.cli import app

MODELS = ROOT / "models"


def score(*arguments: object, status: int = 0) -> str:
    """Run the command with the shipped model; returns its output."""
    result = CliRunner().invoke(app, [str(each) for each in (*arguments, "--model", "digits")])
    assert result.exit_code == status, result.output
    return " ".join(result.output.replace("│", " ").split())


def local(*arguments: object, status: int = 0) -> str:
    """Run the command without a server."""
    return score(*arguments, "--models", MODELS, status=status)


def write_image(folder: Path) -> Path:
    """Write an image of noise with 5×8 windows, and a mask beside it that leaves out two columns; returns its path."""
    (folder / "noise.png").write_bytes(encode(noise(105, 130, 1), ".png"))
    mask = np.full((105, 130), 255, np.uint8)
    mask[:, 115:] = 0
    (folder / "mask.png").write_bytes(encode(mask, ".png"))
    return folder / "noise.png"


def lines(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a .csv file, without the columns of the window."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header[4:], [row[4:] for row in rows]
