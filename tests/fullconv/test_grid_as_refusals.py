"""What files of grids cannot hold: the errors of `Answer.save` and of `fullconv-score --grid-as`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.grid_files import MODELS, lines, local, write_image

from fullconv import ImageError, RequestError, Scorer
from fullconv.common.probabilities import RAW


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of noise with 5×8 windows, of which a mask leaves out two columns."""
    return write_image(tmp_path_factory.mktemp("image"))


def test_scores_that_float16_cannot_hold(image: Path, tmp_path: Path) -> None:
    """Scores beyond 65504 are refused, in the words of the service."""
    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
    assert answer.grid is not None
    large = replace(answer, grid=answer.grid.astype(np.float32) * 1e5)
    with pytest.raises(ImageError, match=r"noise\.png: grid_as: expected scores that float16 can hold, got larger"):
        large.save(tmp_path / "grid.npz", grid_as="float16")
    assert not list(tmp_path.iterdir())


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a value": ("a.npz", {"grid_as": "best"}, r"grid_as: expected scores or probability or .* got 'best'"),
    "float16 text": (
        "a.csv",
        {"grid_as": "float16"},
        r"grid_as: expected a file that ends in \.npz or \.zarr or \.tif for float16",
    ),
    "a heatmap": ("a.png", {"grid_as": "top"}, r"grid_as: expected a grid file that ends in .* with it, got none"),
    "a number of classes": ("a.npz", {"grid_as": "top", "grid_top": 0}, "grid_top: expected a positive number, got 0"),
    "a number alone": ("a.npz", {"grid_top": 3}, "grid_top: expected grid_as 'top' with it, got None"),
    "a threshold": (
        "a.npz",
        {"threshold": 0.5},
        r"threshold: expected a grid file that ends in \.csv or \.parquet or \.geojson",
    ),
    "no number": ("a.csv", {"threshold": float("inf")}, "threshold: expected a finite number, got inf"),
    "text": ("a.csv", {"threshold": "0.5x"}, "threshold: expected a finite number, got '0.5x'"),
    "merged arrays": ("a.npz", {"merge": True}, r"merge: expected a grid file that ends in \.geojson with it"),
    "a map": ("a.csv", {"coordinates": "map"}, r"coordinates: expected a grid file that ends in \.geojson with it"),
    "coordinates": ("a.geojson", {"coordinates": "metres"}, "coordinates: expected pixels or map, got 'metres'"),
}


@pytest.mark.parametrize(("name", "options", "message"), WRONG.values(), ids=WRONG)
def test_refused(name: str, options: dict[str, Any], message: str, image: Path, tmp_path: Path) -> None:
    """`save` raises, and the command ends with status 2, for options that do not suit the file."""
    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        with pytest.raises(RequestError, match=message):
            answer.save(tmp_path / name, **options)
    words = [
        word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value) if word is not True
    ]
    assert "--" in local(image, "--grid", tmp_path / name, *words, status=2)
    assert not list(tmp_path.iterdir())


def test_unknown_options(image: Path, tmp_path: Path) -> None:
    """An option that does not exist is a TypeError, as for every function."""
    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
    wrong: Any = {"gridas": "top"}
    with pytest.raises(TypeError, match=r"expected options among grid_as, .* got gridas"):
        answer.save(tmp_path / "grid.npz", **wrong)


def test_models_without_probabilities(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities of a model without them are refused; the highest classes have scores."""
    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        described = scorer.model("digits")
    model = replace(described, output=replace(described.output, kind=RAW))
    with pytest.raises(RequestError, match="grid_as: expected scores, got probability, which model 'digits' does not"):
        answer.save(tmp_path / "grid.npz", model=model, grid_as="probability")
    monkeypatch.setattr(Scorer, "model", lambda *_: model)
    options = (image, "--grid", tmp_path / "grid.npz", "--grid-as", "probability")
    assert "--grid-as: expected scores, got probability, which model 'digits' does not" in local(*options, status=2)
    answer.save(tmp_path / "grid.csv", model=model, grid_as="argmax")
    assert lines(tmp_path / "grid.csv")[0] == ["class", "score"]


@pytest.mark.parametrize("name", ["grid.csv", "grid.npz", "page.html"])
def test_a_class_of_a_grid(image: Path, tmp_path: Path, name: str) -> None:
    """`save` refuses a class for files that are no heatmaps, instead of ignoring it."""
    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        with pytest.raises(RequestError, match=f"class_: expected a file of a heatmap with it, .* got '{name}'"):
            answer.save(tmp_path / name, "3")
    assert not list(tmp_path.iterdir())
