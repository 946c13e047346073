"""Scoring of whole images with real models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.engines import CancellableEngine
from support.networks import PADDED, UNPADDED, make_network
from support.pictures import noise, png
from support.scoring import Scoring, plan_image

from fullconv.protos import scoring_pb2
from service.errors import CancelledRunError, ImageError, ModelError, NotFoundError, OptionError
from service.images.encoded import open_bytes
from service.limits import Tuning
from service.scoring.scorer import Scorer

Convert = Callable[..., Path]


def request(model: str, **options: Any) -> scoring_pb2.ScoreRequest:
    return scoring_pb2.ScoreRequest(model=model, options=scoring_pb2.ScoreOptions(**{"grid": True} | options))


def scored(run: Scoring) -> np.ndarray:
    """Return the whole grid (rows, cols, classes); `run.answer()` may follow."""
    return np.concatenate([rows.scores for rows in run.rows()])


def test_every_cell_is_the_networks_score_of_its_window(tmp_path: Path, convert: Convert) -> None:
    """For an unpadded network every cell of an odd-sized image equals the numpy network on that window."""
    network = make_network(tmp_path, UNPADDED)
    image = noise(61, 83, 3)
    grid = scored(plan_image(Scorer(convert(network)), open_bytes(png(image), name="i"), request("unpadded")))
    assert grid.shape == (10, 15, 5)
    for row, col in np.ndindex(10, 15):
        crop = image[4 * row : 4 * row + 22, 4 * col : 4 * col + 26]
        assert_allclose(grid[row, col], network.scores(crop), atol=1e-4)


@pytest.mark.parametrize("toml", [UNPADDED, PADDED], ids=["unpadded", "padded"])
@pytest.mark.parametrize("budget", [1, 300_000, 2_000_000], ids=["smallest", "small", "middling"])
def test_tiles_are_the_whole_image(tmp_path: Path, convert: Convert, toml: str, budget: int) -> None:
    """For padded and unpadded networks the grid of tiles equals that of one pass, to rounding, also at the borders."""
    network = make_network(tmp_path, toml)
    models, data, message = convert(network), png(noise(237, 301, 3)), request(network.architecture.name)
    whole = plan_image(Scorer(models), open_bytes(data, name="i"), message)
    tiled = plan_image(Scorer(models, tuning=Tuning(tile_bytes=budget)), open_bytes(data, name="i"), message)
    assert whole.plan.tile_count == 1
    assert tiled.plan.tile_count > 3
    assert_allclose(scored(tiled), scored(whole), rtol=1e-4, atol=1e-5)


def test_images_of_one_plan_have_answers_of_their_own(tmp_path: Path, convert: Convert) -> None:
    """Images of one size share a cached plan, and each image keeps its own name and scores."""
    models = convert(make_network(tmp_path, UNPADDED))
    images = [open_bytes(png(noise(40, 50, 3, seed=seed)), name=f"image {seed}") for seed in range(2)]
    shared = Scorer(models)
    runs = [plan_image(shared, image, request("unpadded")) for image in images]
    answers = []
    for run in runs:
        list(run.rows())
        answers.append(run.answer())
    for image, answer in zip(images, answers, strict=True):
        run = plan_image(Scorer(models), image, request("unpadded"))
        list(run.rows())
        expected = run.answer()
        expected.timing.CopyFrom(answer.timing)
        assert answer == expected
    assert runs[0].plan is runs[1].plan


def test_averages(tmp_path: Path, convert: Convert) -> None:
    """Averages are the means over the grid, of the scores or of their softmax, the highest first."""
    scorer = Scorer(convert(make_network(tmp_path, UNPADDED)))
    data = png(noise(90, 100, 3))
    plain = plan_image(scorer, open_bytes(data, name="i"), request("unpadded", top=5))
    grid = scored(plain).astype(np.float64)
    powers = np.exp(grid - grid.max(-1, keepdims=True))
    softmax = powers / powers.sum(-1, keepdims=True)
    probable = plan_image(scorer, open_bytes(data, name="i"), request("unpadded", average="AVERAGE_OF_PROBABILITIES"))
    scored(probable)
    assert_allclose(plain.answer().average.values, grid.mean((0, 1)), rtol=1e-6)
    assert_allclose(probable.answer().average.values, softmax.mean((0, 1)), rtol=1e-5)
    assert list(np.argsort(-grid.mean((0, 1)))) == list(plain.answer().average.top)


def test_chosen_classes(tmp_path: Path, convert: Convert) -> None:
    """Classes have the requested order, each once, and labels take precedence over indices."""
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n0\nbird\nçedilla\n", "utf-8")
    scorer = Scorer(convert(make_network(tmp_path, UNPADDED), labels=labels))
    data = png(noise(40, 40, 3))
    everything = scored(plan_image(scorer, open_bytes(data, name="i"), request("unpadded")))
    run = plan_image(scorer, open_bytes(data, name="i"), request("unpadded", classes=["çedilla", "0", "1", "dog"]))
    assert [entry.index for entry in run.response.classes] == [4, 2, 1]
    assert_allclose(scored(run), everything[..., [4, 2, 1]])


def test_unknown_names(tmp_path: Path, convert: Convert) -> None:
    """The error for an unknown model, version or class lists the existing ones."""
    scorer = Scorer(convert(make_network(tmp_path, UNPADDED)))
    picture = open_bytes(png(noise(40, 40, 3)), name="i")
    with pytest.raises(NotFoundError, match=r"no model 'other'; available: unpadded"):
        plan_image(scorer, picture, request("other"))
    with pytest.raises(NotFoundError, match="no version '7' of model 'unpadded'; available: 1"):
        plan_image(scorer, picture, scoring_pb2.ScoreRequest(model="unpadded", version="7"))
    with pytest.raises(NotFoundError, match="expected labels of model 'unpadded' or 0 to 4, got 'cow'"):
        plan_image(scorer, picture, request("unpadded", classes=["cow"]))


@pytest.mark.parametrize("name", ["../unpadded", "", ".", "unpadded/1", "ünpadded"])
def test_names_cannot_leave_the_repository(tmp_path: Path, convert: Convert, name: str) -> None:
    """A path in place of a model's name is refused."""
    with pytest.raises(NotFoundError):
        Scorer(convert(make_network(tmp_path, UNPADDED))).model(name)


def test_raw_scores_have_no_probabilities(tmp_path: Path, convert: Convert) -> None:
    """A model converted with --activation none refuses to average probabilities."""
    scorer = Scorer(convert(make_network(tmp_path, UNPADDED), activation="none"))
    with pytest.raises(OptionError, match="got probabilities, which model"):
        plan_image(
            scorer, open_bytes(png(noise(40, 40, 3)), name="i"), request("unpadded", average="AVERAGE_OF_PROBABILITIES")
        )


@pytest.mark.parametrize("file", ["weights.data", "labels.txt"])
def test_files_that_do_not_match_their_hash_are_refused(tmp_path: Path, convert: Convert, file: str) -> None:
    """A changed weight or label is detected before anything is scored."""
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    models = convert(make_network(tmp_path, UNPADDED), labels=labels)
    path = models / "unpadded" / "1" / file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=f"{file}: expected sha256"):
        Scorer(models).model("unpadded")


@pytest.mark.parametrize("content", [b"", b"\x08\x09", b"nonsense" * 9], ids=["empty", "no-metadata", "garbage"])
def test_damaged_models_are_refused(tmp_path: Path, convert: Convert, content: bytes) -> None:
    """A model.onnx that is not an ONNX model is refused with its path."""
    models = convert(make_network(tmp_path, UNPADDED))
    (models / "unpadded" / "1" / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        Scorer(models).model("unpadded")


def test_window_sized_image(tmp_path: Path, convert: Convert) -> None:
    """An image of exactly one window has one cell; one pixel less is refused."""
    scorer = Scorer(convert(make_network(tmp_path, UNPADDED)))
    assert scored(plan_image(scorer, open_bytes(png(noise(22, 26, 3)), name="i"), request("unpadded"))).shape == (
        1,
        1,
        5,
    )
    with pytest.raises(ImageError, match=r"22×26 pixels \(height×width\), got 22×25"):
        plan_image(scorer, open_bytes(png(noise(22, 25, 3)), name="i"), request("unpadded"))


def test_left_out_pixels_are_reported(tmp_path: Path, convert: Convert) -> None:
    """The answer states how many pixels belong to no window."""
    run = plan_image(
        Scorer(convert(make_network(tmp_path, UNPADDED))),
        open_bytes(png(noise(25, 33, 3)), name="i"),
        request("unpadded"),
    )
    assert (run.response.grid.left_out.height, run.response.grid.left_out.width) == (3, 3)


@pytest.mark.parametrize("polls", [0, 1, 3])
def test_cancelled_runs_stop(tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch, polls: int) -> None:
    """A run checks for cancellation before it decodes and before every tile, and then computes no further tile."""
    scorer = Scorer(convert(make_network(tmp_path, UNPADDED)), tuning=Tuning(tile_bytes=100_000))
    answers = iter([False] * polls)
    run = plan_image(
        scorer,
        open_bytes(png(noise(200, 200, 3)), name="i"),
        request("unpadded"),
        CancellableEngine(lambda: next(answers, True)),
    )
    tiles, compute = [], run.session.score

    def score(pixels: list[np.ndarray]) -> np.ndarray:
        tiles.append(pixels)
        return compute(pixels)

    monkeypatch.setattr(run.session, "score", score)
    with pytest.raises((CancelledRunError, ImageError)):
        scored(run)
    assert len(tiles) <= polls < run.plan.tile_count
