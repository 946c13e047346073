"""Options that the model or the image cannot have, and outputs that cannot be written, also with --plan."""

import sys
from pathlib import Path

import pytest
from support.command_line import MODELS
from typer.testing import CliRunner, Result

from fullconv.command.cli import app

Words = list[str]


def score(*arguments: object) -> Result:
    """Run the command with the shipped model."""
    return CliRunner().invoke(app, [*map(str, arguments), *MODELS])


def words(result: Result) -> str:
    """Return the text on standard error in one line, without the frame that Typer draws."""
    return " ".join(result.stderr.replace("│", " ").split())


REFUSED: dict[str, tuple[Words, int, str]] = {
    "a threshold of objects": (
        ["--boxes", "a.csv", "--threshold", "1.5"],
        2,
        "--threshold: expected a probability from 0 to 1, got 1.5",
    ),
    "a threshold of a table": (
        ["--grid", "a.csv", "--threshold", "5"],
        2,
        "--threshold: expected a probability from 0 to 1, got 5",
    ),
    "an output": (
        ["--boxes", "a.csv", "--box-output", "offsets"],
        2,
        "--box-output: expected a further output of model 'digits' with 4 values, but it has none; got 'offsets'",
    ),
    "an unknown class": (
        ["--boxes", "a.csv", "--classes", "cat"],
        3,
        "classes: expected labels of model 'digits' or 0 to 10, got 'cat'",
    ),
    "merged polygons": (
        ["--grid", "a.geojson", "--merge"],
        3,
        "merge: expected the package rasterio, got none; pip install rasterio",
    ),
    "a Zarr folder": (["--grid", "a.zarr"], 3, "grid: expected the package zarr for .zarr, got none; pip install zarr"),
    "a map": (
        ["--grid", "a.geojson", "--coordinates", "map"],
        3,
        "image.png: coordinates: expected a GeoTIFF with an EPSG code and one transformation for 'map', got an image",
    ),
    "no folder": (["--grid", "none/a.npz"], 3, "none/a.npz: cannot be written: No such file or directory"),
    "no folder of the table": (["--table", "none/a.csv"], 3, "none/a.csv: cannot be written: No such file or director"),
    "a file as folder": (["--heatmap", "image.png/a.png"], 3, "image.png/a.png: cannot be written: Not a directory"),
}


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["score", "plan"])
@pytest.mark.parametrize(("options", "status", "expected_message"), REFUSED.values(), ids=REFUSED)
def test_plans_refuse_what_scoring_refuses(
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Words,
    status: int,
    expected_message: str,
    plan: Words,
) -> None:
    """The status is 2 for a value that the model cannot have, and 3 for an image or a file; --plan gives the same."""
    monkeypatch.chdir(image.parent)
    for package in ("rasterio", "rasterio.features", "zarr"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it was not installed
    result = score(image.name, *options, *plan)
    assert (result.exit_code, result.stdout) == (status, "")
    assert expected_message in words(result)
    assert [path.name for path in Path().iterdir()] == ["image.png"]


def test_plans_may_have_a_new_folder_of_outputs(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of --output-dir is made by scoring, so that a plan does not need it, and does not make it."""
    monkeypatch.chdir(image.parent)
    result = score(image.name, "--output-dir", "new", "--grid", "a.npz", "--table", "a.csv", "--plan")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in Path().iterdir()] == ["image.png"]


@pytest.mark.parametrize(
    "options",
    [["--grid", "a.npz"], ["--plan"], ["--html", "a.html", "--open"], ["--stride", "4"], ["--mask", "otsu"]],
    ids=lambda options: options[0],
)
def test_descriptions_refuse_other_options(options: Words) -> None:
    """Options that have no meaning for --describe are exit status 2."""
    result = score("--describe", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected no such option with --describe" in words(result)


def test_descriptions_with_the_options_of_the_model() -> None:
    """The version, the directory and the form of the document are options of --describe."""
    assert score("--describe", "--version", "1", "--json", "--provider", "cpu").exit_code == 0
