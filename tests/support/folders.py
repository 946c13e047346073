"""The command `fullconv-score` in this process, for the folder of images of the fixture `scans`."""

import csv
from pathlib import Path

from support.command_line import MODELS
from typer.testing import CliRunner, Result

from fullconv.command.cli import app

PAGES = ("scans/b/page.png", "scans/page.png")
FOUND = ["scans/a/broken.jpg", "scans/b/deep/seite 図.TIF", "scans/b/page.png", "scans/page.png"]
"""The images in the folder, in their order."""


def score(*arguments: object) -> Result:
    """Run the command with the shipped model."""
    return CliRunner().invoke(app, [*map(str, arguments), *MODELS])


def one_line(text: str) -> str:
    """Return text that may be broken into lines as one line."""
    return " ".join(text.split())


def files_in(folder: Path) -> set[str]:
    """Return the paths of the files in a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def rows_of(path: str) -> list[dict[str, str]]:
    """Return the lines of a .csv file."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
