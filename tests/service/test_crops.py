"""Networks that cannot slide, converted with --crops-only, are scored window by window."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from support.conversion import SILENT
from support.engines import CancellableEngine
from support.pictures import noise, png
from support.scoring import Scoring, plan_image

from converter import convert as conversion
from converter.sources.read import read_source
from fullconv.protos import scoring_pb2
from service.errors import CancelledRunError
from service.images.encoded import open_bytes
from service.limits import Tuning
from service.scoring import modes
from service.scoring.scorer import Scorer

DATA = Path(__file__).parent.parent / "data"
NETWORKS = {
    "pytorch/vit.dynamo_batch": (16, 16),
    "pytorch/squeeze_excite.torchscript": (22, 26),
    "pytorch/group_norm.torchscript_batch": (22, 26),
    "pytorch/batch10.dynamo": (22, 26),  # a fixed batch of ten
    "keras/squeeze_excite.tf2onnx": (22, 26),  # channels last
}


def convert(name: str, folder: Path, *strides: int) -> Scorer:
    """Convert a network for mode crops, with pixels from 0 to 1."""
    request = conversion.Request(folder / "net" / "1", preprocess="unit", windows=4, strides=strides, crops_only=True)
    report = conversion.convert(read_source(DATA / f"{name}.onnx", arch=None, window=None), request, SILENT)
    assert report.spec.modes == ["crops"]
    assert report.spec.parity[0].exact
    return Scorer(folder)


def plan(scorer: Scorer, image: np.ndarray, **options: Any) -> Scoring:
    request = scoring_pb2.ScoreRequest(model="net", options=scoring_pb2.ScoreOptions(grid=True, **options))
    return plan_image(scorer, open_bytes(png(image), name="i"), request)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_cell_is_the_original_networks_score(tmp_path: Path, name: str) -> None:
    """At a stride of half a window, each window's scores equal the source's, to 1e-5."""
    window, image = NETWORKS[name], noise(71, 83, 3)
    run = plan(convert(name, tmp_path), image)
    grid = np.concatenate([rows.scores for rows in run.rows()])
    response = run.answer()
    assert response.mode == "crops"
    assert (response.grid.stride.height, response.grid.stride.width) == (window[0] // 2, window[1] // 2)
    assert grid.shape[:2] == tuple((size - own) // (own // 2) + 1 for size, own in zip((71, 83), window, strict=True))
    original = ort.InferenceSession(DATA / f"{name}.onnx")
    entry = original.get_inputs()[0]
    for row, col in np.ndindex(*grid.shape[:2]):
        top, left = row * (window[0] // 2), col * (window[1] // 2)
        crop = image[top : top + window[0], left : left + window[1]] / np.float32(255)
        laid_out = crop if entry.shape[3] == 3 else np.moveaxis(crop, -1, 0)
        batch = np.repeat(laid_out[None], entry.shape[0] if isinstance(entry.shape[0], int) else 1, 0)
        expected = original.run(None, {entry.name: batch})[0][0]
        assert_allclose(grid[row, col], expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_windows_have_the_stride_of_the_conversion(tmp_path: Path) -> None:
    """The stride may be no divisor of the window, and may exceed the window."""
    for stride in (7, 40):
        run = plan(convert("pytorch/vit.dynamo_batch", tmp_path / str(stride), stride), noise(71, 83, 3))
        grid = np.concatenate([rows.scores for rows in run.rows()])
        assert grid.shape[:2] == ((71 - 16) // stride + 1, (83 - 16) // stride + 1)


def test_tiles_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any tiles, each window is scored once and has the same scores."""
    scorer, image = convert("pytorch/vit.dynamo_batch", tmp_path), noise(120, 99, 3)
    monkeypatch.setattr(modes, "MIN_TILE_WINDOWS", 1000)
    whole = plan(scorer, image)
    assert whole.plan.tile_count == 1
    expected = np.concatenate([rows.scores for rows in whole.rows()])
    monkeypatch.setattr(modes, "MIN_TILE_WINDOWS", 2)
    monkeypatch.setattr(modes, "MIN_TILE_PIXELS", 1)
    tiled = plan(Scorer(scorer.registry), image)  # the first scorer has cached its plan
    assert tiled.plan.tile_count > 10
    assert_allclose(np.concatenate([rows.scores for rows in tiled.rows()]), expected, rtol=0, atol=1e-5)


def test_a_cancelled_run_stops_between_batches(tmp_path: Path) -> None:
    """The remaining windows of the same tile are not scored."""
    scorer, answers = convert("pytorch/vit.dynamo_batch", tmp_path), iter([False] * 5)
    request = scoring_pb2.ScoreRequest(model="net")
    run = plan_image(
        scorer, open_bytes(png(noise(200, 200, 3)), name="i"), request, CancellableEngine(lambda: next(answers, True))
    )
    assert run.plan.tile_count == 1
    with pytest.raises(CancelledRunError):
        list(run.rows())


def test_a_cancelled_run_stops_between_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows of the remaining tiles are not scored."""
    monkeypatch.setattr(modes, "MIN_TILE_PIXELS", 1)
    scorer = convert("pytorch/vit.dynamo_batch", tmp_path)
    finished: list[bool] = []
    request = scoring_pb2.ScoreRequest(model="net", options=scoring_pb2.ScoreOptions(grid=True))
    run = plan_image(
        scorer, open_bytes(png(noise(200, 200, 3)), name="i"), request, CancellableEngine(lambda: bool(finished))
    )
    bands = run.rows()
    next(bands)
    finished.append(True)
    with pytest.raises(CancelledRunError):
        next(bands)


def test_limits_are_those_of_other_models(tmp_path: Path) -> None:
    """The budget for activations does not change the plan of crops, which is made before a pixel is decoded."""
    scorer = convert("pytorch/vit.dynamo_batch", tmp_path)
    small = Scorer(tmp_path, tuning=Tuning(tile_bytes=1))
    assert plan(small, noise(71, 83, 3)).plan.tile_count == plan(scorer, noise(71, 83, 3)).plan.tile_count
