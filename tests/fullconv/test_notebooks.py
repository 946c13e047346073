"""The notebooks in docs/notebooks run from top to bottom, and their files hold the outputs of this version."""

import base64
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_notebooks import FOLDER, needs, read, run_cells

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WITH_EXTRAS = [path for path in NOTEBOOKS if any(map(needs, read(path)["cells"]))]
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
PICTURE = re.compile(r"data:image/png;base64,(?P<data>[^\"]+)")
WITHIN = 0.03
"""Largest relative difference of a number: processors round differently."""
VISIBLE, CHANGED_SHARE = 64, 0.04
"""Difference of a grey value, of 255, that is visible, and the largest share of pixels in which pictures may differ."""
MOST_BYTES = 300_000


def assert_alike(stored: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    """The outputs of a cell have the same kinds, texts with the same numbers, and pictures of the same size."""
    assert [output["output_type"] for output in stored] == [output["output_type"] for output in new]
    for one, other in zip(stored, new, strict=True):
        parts, found = ({"text": output.get("text"), **output.get("data", {})} for output in (one, other))
        assert list(parts) == list(found)
        for kind, part in parts.items():
            if kind == "image/jpeg":
                assert_same_picture(part, found[kind])
            elif part is not None:
                assert_same_text("".join(part), "".join(found[kind]))


def assert_same_text(stored: str, new: str) -> None:
    """Both texts have the same words and numbers; pictures in HTML look alike."""
    for one, other in zip(PICTURE.findall(stored), PICTURE.findall(new), strict=True):
        assert_same_picture(one, other)
    stored, new = (" ".join(PICTURE.sub("", text).split()) for text in (stored, new))
    assert NUMBER.split(stored) == NUMBER.split(new), f"stored: {stored}\nnew: {new}"
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (stored, new)]
    assert numbers[1] == pytest.approx(numbers[0], rel=WITHIN), f"stored: {stored}\nnew: {new}"


def assert_same_picture(stored: str, new: str) -> None:
    """Two encoded pictures have the same size and look alike."""
    one, other = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), np.int16) for data in (stored, new)
    )
    assert one.shape == other.shape
    assert (abs(one - other) > VISIBLE).mean() <= CHANGED_SHARE


def check(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Run a notebook, which writes below `folder`, and compare its outputs.

    Returns the number of cells that ran, and of all code cells.
    """
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    notebook, ran = read(path), 0
    for cell, outputs in run_cells(notebook):
        assert_alike(cell["outputs"], outputs)
        ran += 1
    return ran, sum(cell["cell_type"] == "code" for cell in notebook["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells that need no extra print the stored text and draw the stored pictures; the file is small."""
    ran, count = check(path, tmp_path, monkeypatch)
    extra = sum(bool(needs(cell)) for cell in read(path)["cells"])
    assert count - extra <= ran <= count
    assert '"image/jpeg"' in path.read_text("utf-8")
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.extras
@pytest.mark.parametrize("path", WITH_EXTRAS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_the_extras(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extras, all cells run."""
    ran, count = check(path, tmp_path, monkeypatch)
    assert ran == count


def test_changed_outputs_are_found() -> None:
    """Another text, another number, a missing output and another picture are differences."""
    stored = [{"output_type": "stream", "text": ["found 54 digits\n"]}]
    for text in ("found 54 letters\n", "found 50 digits\n"):
        with pytest.raises(AssertionError):
            assert_alike(stored, [{"output_type": "stream", "text": [text]}])
    with pytest.raises(AssertionError):
        assert_alike(stored, [])
    pictures = []
    for shade in (0, 255):
        buffer = io.BytesIO()
        Image.new("L", (8, 8), shade).save(buffer, "PNG")
        pictures.append(base64.b64encode(buffer.getvalue()).decode())
    with pytest.raises(AssertionError):
        assert_same_picture(*pictures)
