"""Outputs that would replace an input or another output are refused before anything is scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.command_line import MODELS
from support.pictures import png
from typer.testing import CliRunner, Result

from fullconv.command.cli import app


def score(*arguments: object) -> Result:
    """Run the command with the shipped model."""
    return CliRunner().invoke(app, [*map(str, arguments), *MODELS])


def words(result: Result) -> str:
    """Return the text on standard error in one line, without the frame that Typer draws."""
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Return a mask of the size of `image`, all nonzero."""
    path = tmp_path / "image-mask.png"
    path.write_bytes(png(np.full((90, 111, 1), 255, np.uint8)))
    return path


@pytest.mark.parametrize("given", ["image-mask.png", "{stem}-mask.png"], ids=["name", "stem"])
def test_an_output_does_not_replace_the_mask(image: Path, mask: Path, given: str) -> None:
    """An output with the path of the mask is exit status 2, and the mask stays."""
    before = mask.read_bytes()
    result = score(image, "--mask", mask.with_name(given), "--heatmap", mask)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "which is an image or a mask of this command, or no regular file" in words(result)
    assert mask.read_bytes() == before


def test_an_output_does_not_replace_the_areas(image: Path, tmp_path: Path) -> None:
    """An output with the path of a mask of areas is exit status 2, and the areas stay."""
    areas = tmp_path / "areas.geojson"
    corners = [[0, 0], [111, 0], [111, 90], [0, 90], [0, 0]]
    areas.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    before = areas.read_text()
    result = score(image, "--mask", areas, "--grid", areas)
    assert (result.exit_code, result.stdout) == (2, "")
    assert areas.read_text() == before


def outputs_of_one_place(folder: Path) -> dict[str, list[object]]:
    """Return options of outputs that have the same place under different paths."""
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder / "sub")
    return {
        "parent": ["--grid", folder / "a.npz", "--grid", folder / "sub" / ".." / "a.npz"],
        "link": ["--html", folder / "sub" / "a.html", "--html", folder / "link" / "a.html"],
        "twice": ["--heatmap", folder / "a.png", "--heatmap", folder / "a.png"],
    }


@pytest.mark.parametrize("kind", ["parent", "link", "twice"])
def test_outputs_of_one_place_are_refused(image: Path, tmp_path: Path, kind: str) -> None:
    """Two outputs that would replace each other are exit status 2, and nothing is written."""
    options = outputs_of_one_place(tmp_path)[kind]
    result = score(image, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected a different file for every image and output" in words(result)
    assert {path.name for path in tmp_path.rglob("*")} == {"image.png", "sub", "link"}


@pytest.mark.parametrize("name", ["a.npz", "a.html"])
def test_folders_that_cannot_be_read(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """If an output's folder may not be read, the exit status is 3 and one line names the output."""
    output, original = tmp_path / name, Path.exists

    def refused(path: Path) -> bool:
        if path.stem == output.stem:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "exists", refused)
    result = score(image, "--grid" if name == "a.npz" else "--html", output)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"fullconv-score: {output}: cannot be written: Permission denied\n"


def test_links_in_a_circle_are_refused(image: Path, tmp_path: Path) -> None:
    """An output in a folder that is a link to itself is an error of this output."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    result = score(image, "--grid", tmp_path / "loop" / "a.npz")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"fullconv-score: {tmp_path}/loop/a.npz: cannot be written: ")
