"""Jobs of `fullconv-batch` in tests: the command, images, and what a job has written."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet
from support.paths import ROOT
from support.pictures import encode, noise
from typer.testing import CliRunner, Result

from service.batch import cli
from service.batch.stop import Stop

COMMAND = [sys.executable, "-c", "from service.batch.cli import main; main()"]
MODELS = ["--models", str(ROOT / "models"), "--model", "digits"]
OUT = Path("out")


def batch(*arguments: object, out: object = OUT, models: Sequence[str] = MODELS) -> Result:
    """Run the command in this process. Default: the results go to the folder `out`."""
    cli.stop = Stop()
    return CliRunner().invoke(cli.app, [*map(str, arguments), *models, "-o", str(out)])


def last_line(result: Result) -> str:
    """Return the last line of the errors, without the borders of Typer's boxes."""
    return " ".join(result.stderr.replace("│", " ").replace("╰", "").replace("─", "").replace("╯", "").split())


def rows(out: Path = OUT) -> list[dict[str, Any]]:
    """Return the rows of a job's results, in the order of the parts."""
    parts = sorted((out / "results").iterdir())
    return [row for part in parts for row in parquet.read_table(part).to_pylist()]


def written(out: Path = OUT) -> dict[str, bytes]:
    """Return the files of a job's results by their path, without the times and the locks."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.parent.name != "timing"}


def make_images(folder: Path, count: int, *, side: int = 70) -> None:
    """Write small images of three formats, whose sizes and pixels differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = noise(side + number % 23, side + number % 31, 1, seed=number)
        suffix = (".jpg", ".png", ".tif")[number % 3]
        (folder / f"image{number:04d}{suffix}").write_bytes(encode(pixels, suffix))


def scored_now(arguments: tuple[object, ...]) -> int:
    """Run the command again; returns the number of images that were scored."""
    count: int = json.loads(batch(*arguments, "--json").stdout)["images"]["processed"]
    return count
