"""The shipped model scores the shipped page correctly."""

import json
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from safetensors.numpy import load_file
from support import reference
from support.conversion import SILENT
from support.paths import ROOT
from support.scoring import plan_image

from converter import convert as conversion
from converter.preprocessing import load_preprocessing
from converter.runtime import session
from converter.sources.architecture import load_architecture
from converter.sources.checkpoint import sha256
from converter.sources.read import read_source
from fullconv.protos import model_pb2, scoring_pb2
from service.images.encoded import open_file
from service.scoring.scorer import Scorer

DIGITS = ROOT / "models" / "digits"
CHECKPOINT = DIGITS / "digits.safetensors"
ARCHITECTURE = load_architecture(str(DIGITS / "digits.toml"))


@pytest.fixture(scope="module")
def page() -> NDArray[np.uint8]:
    """Return the page's pixels, (768, 1024, 1)."""
    picture = open_file(DIGITS / "page.png")
    pixels = picture.rows(Scorer(ROOT / "models").model("digits").spec.input).read(0, picture.height)
    assert pixels.dtype == np.uint8
    return pixels.view(np.uint8)


@pytest.fixture(scope="module")
def grid() -> NDArray[np.float32]:
    """Return the committed model's dense scores of the page, (88, 120, 11)."""
    request = scoring_pb2.ScoreRequest(model="digits", options=scoring_pb2.ScoreOptions(grid=True))
    run = plan_image(Scorer(ROOT / "models"), open_file(DIGITS / "page.png"), request)
    return np.concatenate([rows.scores for rows in run.rows()])


@pytest.fixture
def original(tmp_path: Path) -> ort.InferenceSession:
    """Return the source classifier: fully connected, for one window of 70 pixels at a time."""
    classifier = read_source(DIGITS / "digits.safetensors", arch=str(DIGITS / "digits.toml"), window=None)
    return session(classifier.model, tmp_path)


def test_every_cell_of_the_page(
    page: NDArray[np.uint8], grid: NDArray[np.float32], original: ort.InferenceSession
) -> None:
    """Each of the 10,560 cells equals the original classifier on that crop, to 1e-4 in the scores."""
    preprocessing = load_preprocessing("unit")
    assert preprocessing is not None
    assert grid.shape == (88, 120, 11)
    for row in range(88):
        crops = np.stack([page[8 * row : 8 * row + 70, 8 * col : 8 * col + 70] for col in range(120)])
        (expected,) = original.run(None, {"input": np.moveaxis(preprocessing.apply(crops), -1, 1)})
        assert_allclose(grid[row], expected, rtol=0, atol=1e-4)


def test_numpy_agrees(page: NDArray[np.uint8], grid: NDArray[np.float32]) -> None:
    """Some cells equal the scores of a reference in numpy, which uses neither ONNX nor the converter."""
    tensors = load_file(DIGITS / "digits.safetensors")
    for row, col in [(0, 0), (87, 119), (40, 60), (13, 99)]:
        crop = page[8 * row : 8 * row + 70, 8 * col : 8 * col + 70].transpose(2, 0, 1) / 255
        assert_allclose(grid[row, col], reference.run(ARCHITECTURE, tensors, crop), rtol=0, atol=1e-4)


def test_digits_of_the_page_are_found(grid: NDArray[np.float32]) -> None:
    """For at least 95 % of the true boxes the top class of the nearest cell is the right class."""
    digits = json.loads((DIGITS / "page.json").read_text())["digits"]
    found = 0
    for digit in digits:
        x, y, width, height = digit["box"]
        row, col = round((y + height / 2 - 35) / 8), round((x + width / 2 - 35) / 8)
        found += grid[row, col].argmax() == int(digit["label"])
    assert len(digits) >= 40
    assert found / len(digits) >= 0.95


def test_committed_model_is_the_checkpoints(tmp_path: Path) -> None:
    """Converting the committed checkpoint gives the committed weights, and the same spec but for measured figures."""
    classifier = read_source(DIGITS / "digits.safetensors", arch=str(DIGITS / "digits.toml"), window=None)
    request = conversion.Request(tmp_path / "digits" / "1", images=DIGITS)
    spec = conversion.convert(classifier, request, SILENT).spec
    committed = Scorer(ROOT / "models").model("digits").spec
    del spec.parity[:]
    assert committed.parity[0].exact
    bare = model_pb2.ModelSpec()
    bare.CopyFrom(committed)
    del bare.parity[:]
    assert spec == bare


def test_shipped_checkpoint_is_small() -> None:
    """The checkpoint has less than 3 MB, and its digest equals that in the committed model."""
    spec = Scorer(ROOT / "models").model("digits").spec
    checkpoint = DIGITS / "digits.safetensors"
    assert checkpoint.stat().st_size < 3_000_000
    assert spec.source.sha256 == sha256(checkpoint)
    assert spec.parity[0].exact
    assert spec.strides[0].stride.height == spec.strides[0].stride.width == 8


@pytest.mark.torch
def test_held_out_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed checkpoint is right on at least 98 % of the held-out windows, and the card states the figure."""
    monkeypatch.syspath_prepend(DIGITS)
    import data
    import torch
    import train

    _, held_out = data.load_split()
    pixels, labels = train.held_out_windows(held_out)
    model = train.Model(tomllib.loads((DIGITS / "digits.toml").read_text("utf-8")))
    model.load_state_dict({key: torch.from_numpy(value) for key, value in load_file(CHECKPOINT).items()})
    with torch.no_grad():
        right = int((model.eval()(train.unit(pixels)).argmax(1) == labels).sum())
    assert right / len(labels) >= 0.98
    assert f"| **all** | **{right:,} / {len(labels):,}** |" in (DIGITS / "README.md").read_text("utf-8")
