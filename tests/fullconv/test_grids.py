"""Files of grids for other programs: tables and GeoJSON, from the command and from answers."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from support.paths import ROOT
from support.pictures import encode, noise
from typer.testing import CliRunner

from fullconv import OutputError, RequestError, Scorer
from fullconv.command.cli import app
from fullconv.common.probabilities import RAW
from fullconv.common.temporary import remove_leftovers
from fullconv.description import ModelDescription
from fullconv.grids import cell_values, grid_file

PAGE = ROOT / "models" / "digits" / "page.png"
TABLES = [".csv", ".geojson"]


def score(*arguments: object, status: int = 0) -> str:
    """Run the command with the shipped models; returns its output."""
    words = [str(each) for each in (*arguments, "--models", ROOT / "models", "--model", "digits")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == status, result.output
    return result.output


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities of scores (..., classes)."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
    return result


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of noise with 5×8 windows."""
    path = tmp_path_factory.mktemp("image") / "noise.png"
    path.write_bytes(encode(noise(105, 130, 1), ".png"))
    return path


def lines(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Return the header and the numbers of a .csv file."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, np.float32).reshape(-1, len(header))


def test_several_files_of_one_run(image: Path, tmp_path: Path) -> None:
    """--grid may be given several times; tables have the probabilities of the scores in the .npz file, to the bit."""
    score(image, *(part for suffix in (".npz", *TABLES) for part in ("--grid", tmp_path / f"grid{suffix}")))
    with np.load(tmp_path / "grid.npz") as grid:
        expected, x, y = softmax(grid["scores"]), grid["x"], grid["y"]
    header, numbers = lines(tmp_path / "grid.csv")
    assert header == ["minx", "miny", "width", "height", *(f"prob_{name}" for name in [*"0123456789", "background"])]
    assert_array_equal(numbers[:, 0].reshape(5, 8), np.broadcast_to(x, (5, 8)))
    assert_array_equal(numbers[:, 1].reshape(5, 8), np.broadcast_to(y[:, None], (5, 8)))
    assert_array_equal(numbers[:, 2:4], 70)
    assert_array_equal(numbers[:, 4:].reshape(5, 8, 11), expected)
    features = json.loads((tmp_path / "grid.geojson").read_text("utf-8"))["features"]
    measured = [[*feature["properties"]["measurements"].values()] for feature in features]
    assert_array_equal(np.array(measured, np.float32).reshape(5, 8, 11), expected)


def test_geojson_for_qupath(image: Path, tmp_path: Path) -> None:
    """Tiles have closed rings, touch without overlapping, and carry the class of the highest probability."""
    score(image, "--grid", tmp_path / "grid.geojson")
    document = json.loads((tmp_path / "grid.geojson").read_text("utf-8"))
    assert document["type"] == "FeatureCollection"
    for number, feature in enumerate(document["features"]):
        assert (feature["type"], feature["properties"]["objectType"]) == ("Feature", "tile")
        measurements = feature["properties"]["measurements"]
        best = max(measurements, key=lambda name: measurements[name])
        assert best == f"prob_{feature['properties']['classification']['name']}"
        (ring,) = feature["geometry"]["coordinates"]
        row, col = divmod(number, 8)
        left, top = 31 + 8 * col, 31 + 8 * row
        assert ring == [[left, top], [left + 8, top], [left + 8, top + 8], [left, top + 8], [left, top]]


def test_the_threshold(tmp_path: Path) -> None:
    """--threshold keeps the windows whose highest probability is at least that, in every table."""
    files = [tmp_path / f"{name}{suffix}" for name in ("all", "sure") for suffix in TABLES]
    score(PAGE, "--grid", files[0], "--grid", files[1])
    score(PAGE, "--threshold", 0.9, "--grid", files[2], "--grid", files[3])
    _, everything = lines(files[0])
    _, sure = lines(files[2])
    expected = everything[everything[:, 4:].max(1) >= 0.9]
    assert 0 < len(expected) < len(everything)
    assert_array_equal(sure, expected)
    assert len(json.loads(files[3].read_text("utf-8"))["features"]) == len(expected)


def test_some_classes(image: Path, tmp_path: Path) -> None:
    """Probabilities of some classes are those among all classes; the arrays have the scores of these classes."""
    score(image, "--grid", tmp_path / "all.csv")
    score(image, "--classes", "background,3", "--grid", tmp_path / "some.csv", "--grid", tmp_path / "some.npz")
    (header, everything), (chosen, some) = lines(tmp_path / "all.csv"), lines(tmp_path / "some.csv")
    assert chosen[4:] == ["prob_background", "prob_3"]
    assert_array_equal(some, everything[:, [0, 1, 2, 3, *(header.index(name) for name in chosen[4:])]])
    with np.load(tmp_path / "some.npz") as grid:
        assert grid["scores"].shape == (5, 8, 2)


def test_masked_windows_have_no_line(image: Path, tmp_path: Path) -> None:
    """Windows that a mask leaves out are in no table."""
    mask = np.full((105, 130), 255, np.uint8)
    mask[:, 100:] = 0
    (tmp_path / "mask.png").write_bytes(encode(mask, ".png"))
    score(image, "--mask", tmp_path / "mask.png", "--grid", tmp_path / "grid.csv", "--grid", tmp_path / "grid.geojson")
    _, numbers = lines(tmp_path / "grid.csv")
    assert set(numbers[:, 0]) == {0, 8, 16, 24}
    assert len(numbers) == len(json.loads((tmp_path / "grid.geojson").read_text("utf-8"))["features"]) == 20


@pytest.mark.parametrize("suffix", [*TABLES, ".tif"])
def test_answers_write_the_same_files(suffix: str, image: Path, tmp_path: Path) -> None:
    """`Answer.save` writes what the command writes."""
    score(image, "--grid", tmp_path / f"command{suffix}")
    with Scorer(ROOT / "models") as scorer:
        scorer.score(image, model="digits", grid=True).save(tmp_path / f"answer{suffix}")
        some = scorer.score(image, model="digits", grid=True, classes=["3"])
        with pytest.raises(RequestError, match="save: expected the scores of all 11 classes for probabilities"):
            some.save(tmp_path / f"some{suffix}")
    assert (tmp_path / f"answer{suffix}").read_bytes() == (tmp_path / f"command{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", TABLES)
def test_no_windows_and_odd_names(suffix: str, image: Path, tmp_path: Path) -> None:
    """A table without windows is valid, and labels may hold quotes, commas and letters of any script."""
    with Scorer(ROOT / "models") as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        model = scorer.model("digits")
    labels = ['a "b", c', "ü\u4e00", *"23456789", "background"]
    named = replace(answer.header, labels=tuple(labels))
    for threshold, count in ((None, 40), (2.0, 0)):
        values = cell_values(named, coloured(model), answer.classes, {"threshold": threshold})
        with grid_file(tmp_path / f"grid{suffix}", values) as write:
            for rows in answer.rows():
                write(rows)
        if suffix == ".csv":
            names, numbers = lines(tmp_path / "grid.csv")
            assert (names[4:6], len(numbers)) == (['prob_a "b", c', "prob_ü\u4e00"], count)
        else:
            features = json.loads((tmp_path / "grid.geojson").read_text("utf-8"))["features"]
            assert len(features) == count
            for feature in features:
                assert list(feature["properties"]["measurements"]) == [f"prob_{label}" for label in labels]


def test_classes_of_one_name(image: Path, tmp_path: Path) -> None:
    """Classes with the same label keep their own columns and measurements, with their indices in the names."""
    with Scorer(ROOT / "models") as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        model = scorer.model("digits")
    labels = ("crane", "1", "crane", *"3456789", "background")
    named = replace(answer.header, labels=labels)
    names = ["prob_crane_0", "prob_1", "prob_crane_2"]
    for suffix in TABLES:
        with grid_file(tmp_path / f"grid{suffix}", cell_values(named, model, (0, 1, 2))) as write:
            write(answer.rows()[0])
    assert lines(tmp_path / "grid.csv")[0][4:] == names
    features = json.loads((tmp_path / "grid.geojson").read_text("utf-8"))["features"]
    assert [*features[0]["properties"]["measurements"]] == names


def coloured(model: ModelDescription) -> ModelDescription:
    """Return the description of a model whose first class has a colour."""
    return replace(model, colours=("#c01040", *[""] * 10))


def test_colours(image: Path, tmp_path: Path) -> None:
    """A class with a colour has it in GeoJSON, as three numbers."""
    with Scorer(ROOT / "models") as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        values = cell_values(answer.header, coloured(scorer.model("digits")), (0,))
    with grid_file(tmp_path / "grid.geojson", values) as write:
        write(answer.rows()[0])
    features = json.loads((tmp_path / "grid.geojson").read_text("utf-8"))["features"]
    assert {json.dumps(each["properties"]["classification"]) for each in features} == {
        '{"name": "0", "color": [192, 16, 64]}'
    }


def test_scores_of_models_without_probabilities(image: Path, tmp_path: Path) -> None:
    """Tables of a model without probabilities have its scores, and say so in the names of the columns."""
    with Scorer(ROOT / "models") as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        model = scorer.model("digits")
    raw = replace(model, output=replace(model.output, kind=RAW))
    with grid_file(tmp_path / "grid.csv", cell_values(answer.header, raw, answer.classes)) as write:
        write(answer.rows()[0])
    header, numbers = lines(tmp_path / "grid.csv")
    assert header[4] == "score_0"
    assert_array_equal(numbers[:, 4:].reshape(5, 8, 11), answer.grid)


REFUSED: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "a suffix": (
        lambda folder: ["--grid", folder / "grid.txt"],
        "ends in .npz or .zarr or .csv or .parquet or .geojson or .tif",
    ),
    "twice": (lambda folder: ["--grid", folder / "a.csv", "--grid", folder / "a.csv"], "twice"),
    "a threshold alone": (lambda folder: ["--threshold", 0.5, "--grid", folder / "a.npz"], "--threshold"),
    "a threshold of nothing": (lambda folder: ["--threshold", "nan", "--grid", folder / "a.csv"], "finite"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(arguments: Callable[[Path], list[object]], message: str, image: Path, tmp_path: Path) -> None:
    """Wrong options end with status 2 before anything is written."""
    assert message in " ".join(score(image, *arguments(tmp_path), status=2).replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [*TABLES, ".tif"])
def test_a_full_disk(suffix: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one error that names the file, and nothing is left."""
    with Scorer(ROOT / "models") as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        scorer.model("digits")
        monkeypatch.setattr(Path, "touch", lambda path, **_: path.symlink_to("/dev/full"))
        with pytest.raises(OutputError, match=f"grid\\{suffix}: cannot be written: No space left on device"):
            answer.save(tmp_path / f"grid{suffix}")
    assert not list(tmp_path.iterdir())


def test_zarr_needs_its_extra(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without zarr one line says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    printed = score(image, "--grid", tmp_path / "grid.zarr", status=3)
    assert "grid: expected the package zarr for .zarr, got none; pip install zarr" in " ".join(printed.split())
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_grid(image: Path, tmp_path: Path) -> None:
    """A folder of something else is not replaced."""
    (tmp_path / "grid.zarr").mkdir()
    (tmp_path / "grid.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    printed = score(image, "--grid", tmp_path / "grid.zarr", status=2)
    assert "expected a new file or an output to replace" in " ".join(printed.replace("│", " ").split())
    assert [path.name for path in (tmp_path / "grid.zarr").iterdir()] == ["zarr.json"]


@pytest.mark.extras
def test_a_zarr_folder_is_locked_while_it_is_written(tmp_path: Path) -> None:
    """Another process that removes leftovers leaves the folder alone, so that it appears with all that was written."""
    scorer = Scorer(ROOT / "models")
    answer = scorer.score(noise(120, 100, 1), model="digits", grid=True)
    values = cell_values(answer.header, scorer.model("digits"), answer.header.indices)
    with grid_file(tmp_path / "grid.zarr", values) as write:
        held = sorted(tmp_path.rglob("*"))
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.rglob("*")) == held
        for rows in answer.rows():
            write(rows)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.zarr"]


@pytest.mark.extras
def test_zarr(image: Path, tmp_path: Path) -> None:
    """The folder opens in xarray with named dimensions; an earlier grid is replaced, and nothing is left beside it."""
    import xarray  # noqa: PLC0415 (an extra)

    for classes, count in ((("--classes", "3,background"), 2), ((), 11)):
        score(image, "--grid", tmp_path / "grid.zarr", "--grid", tmp_path / "grid.npz", *classes)
        with (
            xarray.open_zarr(tmp_path / "grid.zarr", consolidated=False) as group,
            np.load(tmp_path / "grid.npz") as grid,
        ):
            assert group["scores"].dims == ("row", "col", "class")
            for name in ("scores", "x", "y"):
                assert_array_equal(group[name], grid[name])
            assert (group.attrs["window"], len(group.attrs["labels"])) == ([70, 70], count)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.npz", "grid.zarr"]


@pytest.mark.extras
def test_other_programs_read_them(tmp_path: Path) -> None:
    """Both tables are equal in pandas; the polygons are valid in shapely, and each covers its window's centre."""
    import pandas as pd  # noqa: PLC0415 (not always installed)
    import shapely  # noqa: PLC0415

    files = [tmp_path / f"grid{suffix}" for suffix in (".csv", ".parquet", ".geojson")]
    score(PAGE, *(part for file in files for part in ("--grid", file)))
    table, same = pd.read_csv(files[0], dtype={"minx": "int64"}), pd.read_parquet(files[1])
    assert list(table) == list(same)
    assert_array_equal(table[["minx", "miny", "width", "height"]], same[["minx", "miny", "width", "height"]])
    assert_allclose(table.iloc[:, 4:], same.iloc[:, 4:], rtol=1e-6)
    assert len(table) == 88 * 120
    shapes = shapely.get_parts(shapely.from_geojson(files[2].read_text("utf-8")))
    assert shapely.is_valid(shapes).all()
    assert_allclose(shapely.area(shapes), 64)
    assert_allclose(shapely.area(shapely.union_all(shapes)), 64 * len(shapes))
    centres = shapely.points(table["minx"] + 35, table["miny"] + 35)
    assert shapely.contains(shapes, centres).all()
