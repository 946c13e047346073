"""The command `fullconv-score`, as a process, with the shipped model."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.testing import assert_allclose, assert_array_equal
from support.command_line import score
from support.paths import ROOT
from support.pictures import encode, noise, png

PAGE = ROOT / "models" / "digits" / "page.png"


def test_json_document() -> None:
    """--json prints the documented JSON for the page and nothing else."""
    result = score(PAGE, "--json", "--top", 3)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    timing = document.pop("timing_ms")
    top = document["average"].pop("top")
    parity = document.pop("parity")
    assert document == {
        "image": {"name": "page.png", "width": 1024, "height": 768},
        "model": "digits",
        "version": "1",
        "mode": "dense",
        "mode_reason": "crops would give the same scores for no fewer multiply-adds",
        "provider": "cpu",
        "precision": "fp32",
        "own_scores": True,
        "grid": {
            "rows": 88,
            "cols": 120,
            "stride": [8, 8],
            "window": [70, 70],
            "origin": [0, 0],
            "left_out": [2, 2],
            "scored": 10560,
        },
        "average": {"of": "scores"},
        "warnings": [],
    }
    assert list(timing) == ["decode", "queue", "compute", "total"]
    assert parity.pop("max_abs_diff") < 1e-4
    assert parity == {"exact": True, "top_class_agreement": 1.0}
    assert [top[0]["class"], top[0]["label"]] == [10, "background"]
    assert top[0]["score"] > top[1]["score"] > top[2]["score"]


def test_grid_file(image: Path, tmp_path: Path) -> None:
    """The .npz file has the documented arrays, and the averages are the means of its scores."""
    result = score(image, "--json", "--grid", tmp_path / "grid.npz", "--top", 11)
    document = json.loads(result.stdout)
    with np.load(tmp_path / "grid.npz") as grid:
        assert {"scores", "x", "y", "window", "classes", "labels"} == set(grid)
        assert (grid["scores"].shape, grid["scores"].dtype) == ((3, 6, 11), np.float32)
        assert_array_equal(np.arange(0, 48, 8), grid["x"])
        assert_array_equal([0, 8, 16], grid["y"])
        assert (grid["x"].dtype, grid["y"].dtype) == (np.int64, np.int64)
        assert_array_equal([70, 70], grid["window"])
        assert_array_equal(np.arange(11), grid["classes"])
        assert [*"0123456789", "background"] == list(grid["labels"])
        means = grid["scores"].mean((0, 1), dtype=np.float64)
    for entry in document["average"]["top"]:
        assert_allclose(entry["score"], means[entry["class"]], rtol=1e-6)


def test_chosen_classes(image: Path, tmp_path: Path) -> None:
    """--classes reduces the answer and the grid to classes named by label or index, in this order."""
    result = score(image, "--json", "--classes", "background, 3", "--grid", tmp_path / "grid.npz")
    assert {10, 3} == {entry["class"] for entry in json.loads(result.stdout)["average"]["top"]}
    with np.load(tmp_path / "grid.npz") as grid:
        assert grid["scores"].shape == (3, 6, 2)
        assert_array_equal([10, 3], grid["classes"])


def test_probabilities(image: Path) -> None:
    """The averages of --average probabilities add up to 1."""
    document = json.loads(score(image, "--json", "--average", "probabilities", "--top", 11).stdout)
    assert document["average"]["of"] == "probabilities"
    assert_allclose(sum(entry["score"] for entry in document["average"]["top"]), 1, rtol=1e-5)


@pytest.mark.parametrize("size", [(70, 70), (300, 90), (4200, 100)], ids=["window", "wide", "long"])
def test_heatmap(tmp_path: Path, size: tuple[int, int]) -> None:
    """The longer side of the heatmap has 1200 to 4096 pixels."""
    path = tmp_path / "image.png"
    path.write_bytes(png(noise(size[1], size[0], 3)))
    result = score(path, "--heatmap", tmp_path / "heat.png")
    assert result.returncode == 0, result.stderr
    heatmap = pyvips.Image.new_from_file(str(tmp_path / "heat.png"))
    assert 1200 <= max(heatmap.width, heatmap.height) <= 4096
    assert heatmap.avg() < 254


def test_table(image: Path) -> None:
    """Without --json the command prints a table of the highest averages."""
    text = score(image, "--top", 2).stdout
    assert "image.png" in text
    assert "3×6 windows (rows×columns) of 70×70 pixels (height×width), 8 apart" in text
    assert "background" in text


def test_several_images(tmp_path: Path) -> None:
    """Several images give a list in their order; an image that cannot be scored has its error there, and status 3."""
    paths = [tmp_path / name for name in ("eins.png", "kaputt.jpg", "zwei 图.tif")]
    paths[0].write_bytes(png(noise(80, 80, 1)))
    paths[1].write_bytes(encode(noise(80, 80, 3), ".jpg")[:-300])
    paths[2].write_bytes(encode(noise(90, 80, 3), ".tif"))
    result = score(*paths, "--json", "--grid", tmp_path / "{stem}.npz")
    assert result.returncode == 3
    first, second, third = json.loads(result.stdout)
    assert (first["grid"]["rows"], third["grid"]["rows"]) == (2, 3)
    assert second["image"] == {"name": "kaputt.jpg"}
    assert "expected a complete JPEG file, got a truncated file" in second["error"]
    assert "kaputt.jpg" in result.stderr
    assert {"eins.npz", "zwei 图.npz"} == {path.name for path in tmp_path.glob("*.npz")}


def test_pictures_of_several_formats(image: Path, tmp_path: Path) -> None:
    """--heatmap may be given several times; the files have the same picture."""
    names = [tmp_path / f"heat{suffix}" for suffix in (".png", ".jpg", ".webp")]
    score(image, *(part for name in names for part in ("--heatmap", name)))
    drawn, *others = (pyvips.Image.new_from_file(str(name)).numpy().astype(np.float32) for name in names)
    for other in others:
        assert other.shape == drawn.shape
        assert np.abs(other - drawn).mean() < 8


def test_odd_file_names(tmp_path: Path) -> None:
    """File names may contain brackets, line breaks and bytes that are not UTF-8."""
    for name in (b"a.png[page=1]", b"line\nbreak.png", b"not \xff utf-8.png"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(png(noise(80, 80, 1)))
        result = score(path, "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["grid"]["rows"] == 2
        path.write_bytes(b"not an image")
        assert len(score(path).stderr.splitlines()) == 1


def test_grid_is_a_plain_npz(image: Path, tmp_path: Path) -> None:
    """The grid file is a valid archive, and loads without pickle."""
    score(image, "--grid", tmp_path / "grid.npz")
    with zipfile.ZipFile(tmp_path / "grid.npz") as archive:
        assert archive.testzip() is None
    with np.load(tmp_path / "grid.npz", allow_pickle=False) as grid:
        assert len(grid["labels"]) == 11


def scores_of(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the scores of a grid's file, and its other arrays."""
    with np.load(path) as grid:
        return grid["scores"], {name: grid[name] for name in grid if name != "scores"}


def test_options_choose_windows(tmp_path: Path) -> None:
    """Grids with --stride, --border, --roi, --mask, --flip, --scales and --mode agree with the plain grid."""
    pixels = noise(151, 203, 1)
    image, mask = tmp_path / "image.png", tmp_path / "mask-image.png"
    image.write_bytes(png(pixels))
    mask.write_bytes(png(np.pad(np.full((100, 120, 1), 7, np.uint8), ((20, 31), (10, 73), (0, 0)))))

    def grid(*options: object) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
        result = score(image, "--json", "--grid", tmp_path / "grid.npz", *options)
        assert result.returncode == 0, result.stderr
        return *scores_of(tmp_path / "grid.npz"), json.loads(result.stdout)

    whole, places, _ = grid("--stride", 4, "--border", "anchor")
    assert_array_equal([*range(0, 81, 4), 81], places["y"])
    assert_array_equal([*range(0, 133, 4), 133], places["x"])
    part, places, document = grid("--stride", 4, "--roi", "30,10,100,99")
    assert document["grid"]["origin"] == [12, 32]
    assert_array_equal([*range(12, 37, 4)], places["y"])
    assert_allclose(part, whole[3:10, 8:16], rtol=1e-4, atol=1e-4)
    masked, _, document = grid("--stride", 4, "--mask", tmp_path / "mask-{stem}.png")
    wanted = np.isfinite(masked[..., 0])
    assert_array_equal(np.flatnonzero(wanted.any(1)) * 4, range(20, 49, 4))
    assert_array_equal(np.flatnonzero(wanted.any(0)) * 4, range(12, 61, 4))
    assert document["grid"]["scored"] == wanted.sum()
    assert document["average"]["top"][0]["score"] == pytest.approx(masked[wanted].mean(0).max(), rel=1e-5)
    halved, places, document = grid("--scales", "1.5x,2x", "--flip")
    assert document["grid"]["window"] == [47, 47]
    assert_array_equal(np.rint(np.arange(halved.shape[0]) * 8 * 151 / 226), places["y"])
    crops, _, document = grid("--mode", "crops", "--stride", 3)
    assert document["mode"] == "crops"
    assert_allclose(crops[::4, ::4], whole[:-1:3, :-1:3], rtol=1e-4, atol=1e-4)


def test_plans_print_the_cost(image: Path) -> None:
    """--plan prints what would run and what it costs, as JSON or as a table."""
    document = json.loads(score(image, "--plan", "--json", "--stride", 4, "--flip").stdout)
    (view,) = document["plan"]["views"]
    assert (view["phases"], view["cells"], view["tiles"], view["flip"]) == (4, [6, 11], 8, True)
    assert document["plan"]["multiply_adds"] == view["multiply_adds"] > 1e7
    assert "average" not in document
    assert document["grid"]["scored"] == 66
    result = score(image, "--plan")
    assert "model.onnx" in result.stdout
    assert "multiply-adds" in result.stdout


def test_plans_count_grids_and_masks_and_write_nothing(image: Path, tmp_path: Path) -> None:
    """A plan counts the memory of the grid's rows with --grid or --heatmap, and only the windows inside a mask."""
    mask, out = tmp_path / "mask.png", tmp_path / "out"
    mask.write_bytes(png(np.pad(np.ones((90, 78), np.uint8), ((0, 0), (0, 33)))))
    out.mkdir()
    plain, masked = (json.loads(score(image, "--plan", "--json", *more).stdout) for more in ((), ("--mask", mask)))
    for output in (("--grid", out / "grid.npz"), ("--heatmap", out / "heatmap.png")):
        document = json.loads(score(image, "--plan", "--json", *output).stdout)
        assert document["plan"]["bytes"] - plain["plan"]["bytes"] == 2 * 3 * 6 * 11 * 4
        assert document["plan"]["views"] == plain["plan"]["views"]
    assert masked["grid"]["scored"] == 3 * 2 < plain["grid"]["scored"]
    assert "6 windows inside the mask" in score(image, "--plan", "--mask", mask).stdout
    assert not list(out.iterdir())


def test_arrays_are_scored(tmp_path: Path) -> None:
    """A .npy file is scored like a picture of its pixels; floats and truncated files are refused."""
    pixels = noise(90, 111, 1)[..., 0]
    path, picture = tmp_path / "pixels.npy", tmp_path / "pixels.png"
    np.save(path, pixels)
    picture.write_bytes(png(pixels))
    one, other = (json.loads(score(file, "--json").stdout) for file in (path, picture))
    assert one["average"] == other["average"]
    np.save(path, pixels / 255)
    assert "of uint8, uint16, int16, float32, got (90, 111) of float64" in score(path).stderr
    path.write_bytes(path.read_bytes()[:500])
    result = score(path)
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1)
