"""What files of grids hold: scores, probabilities, float16, the highest classes; each format against the .npz file."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from support.grid_files import MODELS, lines, local, score, write_image
from support.pictures import encode, noise
from support.servers import Server, running

from fullconv import ModelDescription, Scorer
from fullconv.common.probabilities import RAW, SIGMOID
from fullconv.file_options import FileOptions
from fullconv.grid import GridRows
from fullconv.grids import cell_values, grid_file

NAMES = [*"0123456789", "background"]


COLOUR_MAP, NODATA, METADATA = 320, 42113, 42112


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of noise with 5×8 windows, of which a mask leaves out two columns."""
    return write_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def scores(image: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """Return the scores of the image, (5, 8, 11), NaN in the last two columns."""
    path = tmp_path_factory.mktemp("scores") / "grid.npz"
    local(image, *masked(image), "--grid", path)
    with np.load(path) as grid:
        result: NDArray[np.float32] = grid["scores"]
    assert_array_equal(np.isnan(result), np.arange(8)[:, None] + np.zeros((5, 8, 11)) >= 6)
    return result


def masked(image: Path) -> tuple[object, ...]:
    return "--mask", image.with_name("mask.png")


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities of scores (..., classes)."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
    return result


def ranked(
    scores: NDArray[np.float32], depth: int
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Return the classes of the highest scores, their scores and their probabilities."""
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :depth]
    return order, np.take_along_axis(scores, order, -1), np.take_along_axis(softmax(scores), order, -1)


def features(path: Path) -> list[dict[str, Any]]:
    """Return the properties of the features of a .geojson file."""
    return [feature["properties"] for feature in json.loads(path.read_text("utf-8"))["features"]]


@pytest.mark.parametrize("where", ["local", "server"])
def test_arrays(where: str, image: Path, scores: NDArray[np.float32], server: Server, tmp_path: Path) -> None:
    """.npz holds scores, probabilities, float16, or the highest classes; a server sends the same numbers."""
    place = ("--models", MODELS) if where == "local" else ("--server", server.address)
    grids: dict[str, dict[str, NDArray[Any]]] = {}
    for grid_as in ("scores", "probability", "float16", "top", "argmax"):
        path = tmp_path / f"{grid_as}.npz"
        score(image, *masked(image), "--grid", path, "--grid-as", grid_as, *place)
        with np.load(path) as grid:
            grids[grid_as] = {name: grid[name] for name in grid}
        assert_array_equal(grids[grid_as]["labels"], NAMES)
    order, highest, _ = ranked(scores, 5)
    order[:, 6:] = 255
    assert_array_equal(grids["scores"]["scores"], scores)
    assert_array_equal(grids["probability"]["probabilities"], softmax(scores))
    assert_array_equal(grids["float16"]["scores"], scores.astype(np.float16))
    assert_array_equal(grids["top"]["winners"], order)
    assert_array_equal(grids["top"]["scores"], highest)
    assert_array_equal(grids["argmax"]["winners"], order[..., 0])
    assert_array_equal(grids["argmax"]["scores"], highest[..., 0])
    types = {name: (grids[name]["scores"].dtype, grids[name]["winners"].dtype) for name in ("top", "argmax")}
    assert set(types.values()) == {(np.dtype(np.float32), np.dtype(np.uint8))}


def test_a_smaller_grid_is_requested(
    image: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server sends only the highest scores, or float16, if they are enough for every file."""
    from fullconv.remote.client import Client  # noqa: PLC0415 (replaced here only)

    requested: list[object] = []
    original = Client.score

    def watched(self: Client, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        requested.append((options["grid"], options["grid_top"]) if "grid_top" in options else options["grid"])
        return original(self, *args, **options)

    monkeypatch.setattr(Client, "score", watched)
    for suffix, options in (
        (".npz", ("argmax",)), (".npz", ("float16",)), (".tif", ("argmax",)), (".npz", ("top", "--grid-top", 3)),
        (".csv", ("argmax",)), (".npz", ("probability",)),
    ):  # fmt: skip
        score(image, "--grid", tmp_path / f"grid{suffix}", "--grid-as", *options, "--server", server.address)
    for others in (("--boxes", tmp_path / "boxes.csv"), ("--html", tmp_path / "page.html")):
        score(image, "--grid", tmp_path / "grid.npz", "--grid-as", "argmax", *others, "--server", server.address)
    assert requested == [("argmax", 5), ("float16", 5), ("argmax", 5), ("top", 3), True, True, True, True]


def test_tables(image: Path, scores: NDArray[np.float32], tmp_path: Path) -> None:
    """.csv holds scores, or the label and the probability of the highest classes."""
    for grid_as in ("scores", "probability", "top", "argmax"):
        local(image, *masked(image), "--grid", tmp_path / f"{grid_as}.csv", "--grid-as", grid_as)
    cells = scores[:, :6].reshape(30, 11)
    order, _, best = ranked(cells, 5)
    for grid_as, prefix, expected in (("scores", "score", cells), ("probability", "prob", softmax(cells))):
        header, rows = lines(tmp_path / f"{grid_as}.csv")
        assert header == [f"{prefix}_{name}" for name in NAMES]
        assert_array_equal(np.array(rows, np.float32), expected)
    header, rows = lines(tmp_path / "argmax.csv")
    assert header == ["class", "prob"]
    assert [row[0] for row in rows] == [NAMES[winner] for winner in order[:, 0]]
    assert_array_equal(np.array([row[1] for row in rows], np.float32), best[:, 0])
    header, rows = lines(tmp_path / "top.csv")
    assert header == [f"{name}_{rank}" for rank in range(1, 6) for name in ("class", "prob")]
    assert [row[::2] for row in rows] == [[NAMES[winner] for winner in winners] for winners in order]
    assert_array_equal(np.array([row[1::2] for row in rows], np.float32), best)


def test_measurements(image: Path, scores: NDArray[np.float32], tmp_path: Path) -> None:
    """.geojson holds scores, the probability of the class, or the probabilities of the highest classes."""
    for grid_as in ("scores", "top", "argmax"):
        local(image, *masked(image), "--grid", tmp_path / f"{grid_as}.geojson", "--grid-as", grid_as)
    cells = scores[:, :6].reshape(30, 11)
    order, _, best = ranked(cells, 5)
    measured = {name: features(tmp_path / f"{name}.geojson") for name in ("scores", "top", "argmax")}
    for found in measured.values():
        assert [each["classification"]["name"] for each in found] == [NAMES[winner] for winner in order[:, 0]]
    for number, winners in enumerate(order):
        all_scores, top, single = (measured[name][number]["measurements"] for name in measured)
        assert [*all_scores] == [f"score_{name}" for name in NAMES]
        assert_array_equal(np.array([*all_scores.values()], np.float32), cells[number])
        assert [*top] == [f"prob_{NAMES[winner]}" for winner in winners]
        assert_array_equal(np.array([*top.values()], np.float32), best[number])
        assert [*single] == ["prob"]
        assert np.float32(single["prob"]) == best[number, 0]


def test_rasters(image: Path, scores: NDArray[np.float32], tmp_path: Path) -> None:
    """.tif holds bands of scores, float32 or float16, one band of classes, or two bands for each of the highest."""
    for grid_as in ("scores", "float16", "top", "argmax"):
        local(image, *masked(image), "--grid", tmp_path / f"{grid_as}.tif", "--grid-as", grid_as)
    order, _, best = ranked(scores, 5)
    pages = {name: tifffile.imread(tmp_path / f"{name}.tif") for name in ("scores", "float16", "top", "argmax")}
    assert_array_equal(np.moveaxis(pages["scores"], 0, -1), scores)
    assert_array_equal(np.moveaxis(pages["float16"], 0, -1), scores.astype(np.float16))
    assert (pages["float16"].dtype, pages["argmax"].dtype) == (np.float16, np.uint8)
    assert_array_equal(pages["top"][::2], np.where(np.isnan(best), np.nan, order).transpose(2, 0, 1))
    assert_array_equal(pages["top"][1::2], best.transpose(2, 0, 1))
    order[:, 6:] = 255
    assert_array_equal(pages["argmax"], order[..., 0])
    with tifffile.TiffFile(tmp_path / "argmax.tif") as file:
        tags = file.pages[0].aspage().tags
        assert (tags[NODATA].value, COLOUR_MAP in tags) == ("255", False)
    with tifffile.TiffFile(tmp_path / "top.tif") as file:
        assert '"description">class_2</Item>' in file.pages[0].aspage().tags[METADATA].value


def test_the_names_of_classes_beside_a_raster(image: Path, tmp_path: Path) -> None:
    """GDAL's file with the names is written beside a raster of classes, and removed with the classes."""
    local(image, "--grid", tmp_path / "grid.tif", "--grid-as", "argmax")
    assert "<Category>9</Category><Category>background</Category></CategoryNames>" in (
        tmp_path / "grid.tif.aux.xml"
    ).read_text("utf-8")
    local(image, "--grid", tmp_path / "grid.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.tif"]


def test_colours_of_classes(image: Path, tmp_path: Path) -> None:
    """A raster of classes has the colours of the model as its colour map; classes without a colour are grey."""
    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        model = replace(scorer.model("digits"), colours=("#c01040", *[""] * 10))
    answer.save(tmp_path / "grid.tif", model=model, grid_as="argmax")
    with tifffile.TiffFile(tmp_path / "grid.tif") as file:
        colours = np.array(file.pages[0].aspage().tags[COLOUR_MAP].value).reshape(3, 256).T // 257
    assert_array_equal(colours[:3], [[0xC0, 0x10, 0x40], [128] * 3, [128] * 3])
    assert not colours[11:].any()


def test_overviews_of_classes(tmp_path: Path) -> None:
    """Overviews of classes have every second pixel, because classes have no mean."""
    (tmp_path / "noise.png").write_bytes(encode(noise(105, 370, 1), ".png"))
    options = ("--stride", 1, "--grid-as", "argmax")
    local(tmp_path / "noise.png", *options, "--grid", tmp_path / "grid.tif", "--grid", tmp_path / "grid.npz")
    with tifffile.TiffFile(tmp_path / "grid.tif") as file:
        whole, half = (page.asarray() for page in file.pages)
    with np.load(tmp_path / "grid.npz") as grid:
        assert_array_equal(whole, grid["winners"])
    assert whole.shape == (36, 301)
    assert_array_equal(half, whole[::2, ::2])


def test_more_classes_need_a_wider_type(image: Path, tmp_path: Path) -> None:
    """Positions of 256 classes are uint16, because 255 would stand for a class and for no class."""
    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        model = scorer.model("digits")
    for classes, dtype in ((255, np.uint8), (256, np.uint16)):
        labels = tuple(f"class {index}" for index in range(classes))
        header = replace(answer.header, indices=tuple(range(classes)), labels=labels, depth=classes)
        values = cell_values(header, model, header.indices, {"grid_as": "argmax"})
        rows = np.zeros((5, 8, classes), np.float32)
        rows[..., -1] = 1
        for suffix in (".npz", ".tif"):
            with grid_file(tmp_path / f"grid{suffix}", values) as write:
                write(GridRows(0, rows))
        with np.load(tmp_path / "grid.npz") as grid:
            assert grid["winners"].dtype == tifffile.imread(tmp_path / "grid.tif").dtype == dtype
            assert (grid["winners"] == classes - 1).all()


def test_some_classes(image: Path, scores: NDArray[np.float32], tmp_path: Path) -> None:
    """The highest classes are those among --classes, and their positions are those in its order."""
    files = [tmp_path / f"grid{suffix}" for suffix in (".npz", ".csv", ".tif")]
    local(
        image,
        "--classes",
        "background,3",
        "--grid-as",
        "argmax",
        *(part for file in files for part in ("--grid", file)),
    )
    expected = scores[..., [10, 3]].argmax(-1)[:, :6]
    with np.load(files[0]) as grid:
        assert_array_equal(grid["winners"][:, :6], expected)
        assert [*grid["classes"]] == [10, 3]
    assert_array_equal(tifffile.imread(files[2])[:, :6], expected)
    _, rows = lines(files[1])
    assert {row[0] for row in rows} <= {"background", "3"}
    local(image, "--classes", "background,3", "--grid-as", "top", "--grid", tmp_path / "top.npz")
    with np.load(tmp_path / "top.npz") as grid:
        assert grid["winners"].shape == (5, 8, 2)


@pytest.mark.parametrize("classes", [None, "background,3"], ids=["all classes", "two classes"])
@pytest.mark.parametrize("grid_as", ["argmax", "scores", "top"])
def test_the_threshold(
    image: Path, scores: NDArray[np.float32], tmp_path: Path, grid_as: str, classes: str | None
) -> None:
    """--threshold is compared with the highest probability among the classes of the file, also if it has scores."""
    columns = [NAMES.index(name) for name in (classes.split(",") if classes else NAMES)]
    best = softmax(scores)[..., columns].max(-1)[:, :6]
    limit = float(np.median(best))
    chosen = ("--classes", classes) if classes else ()
    path = tmp_path / "grid.csv"
    local(image, *masked(image), *chosen, "--threshold", limit, "--grid", path, "--grid-as", grid_as)
    _, rows = lines(path)
    kept = scores[:, :6][best >= limit]
    assert 0 < len(rows) == len(kept) < 30
    if grid_as == "scores":
        assert_array_equal(np.array(rows, np.float32), kept[:, columns])
    else:
        assert_array_equal(np.array([row[1] for row in rows], np.float32), best[best >= limit])


@pytest.mark.parametrize("kind", [SIGMOID, RAW])
def test_reduced_rows_give_the_same_files(kind: str, image: Path, tmp_path: Path) -> None:
    """For sigmoid and for models without probabilities, the highest scores are enough for every format."""
    with Scorer(MODELS) as scorer:
        whole = scorer.score(image, model="digits", grid=True)
        top = scorer.score(image, model="digits", grid="top", grid_top=3)
        described = scorer.model("digits")
    model: ModelDescription = replace(described, output=replace(described.output, kind=kind))
    for suffix in (".npz", ".csv", ".geojson", ".tif"):
        files: list[Path] = []
        for answer in (whole, top):
            options: FileOptions = {"grid_as": "top", "grid_top": 3}
            values = cell_values(answer.header, model, answer.classes, options)
            files.append(tmp_path / f"{len(files)}{suffix}")
            with grid_file(files[-1], values) as write:
                for rows in answer.rows():
                    write(rows)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_pages_show_probabilities(image: Path, tmp_path: Path) -> None:
    """A page for a browser is the same whatever the files of the grid hold."""
    for name, options in (("argmax", ("--grid-as", "argmax")), ("float16", ("--grid-as", "float16")), ("scores", ())):
        local(image, "--html", tmp_path / f"{name}.html", "--grid", tmp_path / "grid.npz", *options)
    pages = {
        re.sub("timing_ms.*?}", "", (tmp_path / f"{name}.html").read_text("utf-8"))
        for name in ("argmax", "float16", "scores")
    }
    assert len(pages) == 1


@pytest.mark.extras
def test_other_formats(image: Path, scores: NDArray[np.float32], tmp_path: Path) -> None:
    """.zarr has the arrays of .npz, and .parquet the columns of .csv."""
    import pandas as pd  # noqa: PLC0415 (not always installed)
    import zarr  # noqa: PLC0415

    assert scores.shape == (5, 8, 11)
    for grid_as in ("scores", "probability", "float16", "top", "argmax"):
        suffixes = (".npz", ".zarr", *([] if grid_as == "float16" else [".csv", ".parquet"]))
        files = {suffix: tmp_path / f"{grid_as}{suffix}" for suffix in suffixes}
        grids = [part for file in files.values() for part in ("--grid", file)]
        local(image, *masked(image), "--grid-as", grid_as, *grids)
        group = zarr.open_group(files[".zarr"], mode="r")
        with np.load(files[".npz"]) as grid:
            for name in {"scores", "probabilities", "winners"} & {*grid}:
                assert group[name].dtype == grid[name].dtype
                assert_array_equal(group[name][:], grid[name])
        if ".csv" in files:
            table, same = pd.read_csv(files[".csv"], dtype={"class": str}), pd.read_parquet(files[".parquet"])
            assert [*table] == [*same]
            for name in table:
                if name.startswith("class"):
                    assert [*table[name].astype(str)] == [*same[name]]
                else:
                    assert_allclose(table[name], same[name], rtol=1e-6)


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_rasterio_reads_classes(image: Path, tmp_path: Path) -> None:
    """With rasterio: the type, the nodata value, the colours, the names of bands and classes, and float16."""
    import rasterio.shutil  # noqa: PLC0415 (an extra)

    with Scorer(MODELS) as scorer:
        answer = scorer.score(image, model="digits", grid=True)
        model = replace(scorer.model("digits"), colours=("#c01040", *[""] * 10))
    named = replace(answer, header=replace(answer.header, labels=("a & b", *NAMES[1:])))
    for grid_as in ("argmax", "float16"):
        named.save(tmp_path / f"{grid_as}.tif", model=model, **FileOptions(grid_as=grid_as))
    with rasterio.open(tmp_path / "argmax.tif") as raster:
        assert (raster.dtypes, raster.nodata, raster.descriptions) == (("uint8",), 255, ("class",))
        assert (raster.colormap(1)[0], raster.colormap(1)[255]) == ((192, 16, 64, 255), (0, 0, 0, 0))
        rasterio.shutil.copy(raster, tmp_path / "argmax.vrt", driver="VRT")
    assert "<Category>a &amp; b</Category>" in (tmp_path / "argmax.vrt").read_text("utf-8")
    with rasterio.open(tmp_path / "float16.tif") as raster:
        assert answer.grid is not None
        assert_array_equal(np.moveaxis(raster.read(), 0, -1), answer.grid.astype(np.float16).astype(np.float32))
