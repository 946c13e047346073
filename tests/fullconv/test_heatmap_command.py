"""`fullconv-score --heatmap` with real models draws the right picture, and does not change the answer."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file
from support.conversion import convert_into
from support.heatmaps import picture
from support.networks import UNPADDED, Network, make_network
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import running
from typer.testing import CliRunner

from fullconv import Scorer
from fullconv.command.cli import app
from fullconv.command.outputs import Outputs
from fullconv.command.writing import OutputWriter
from fullconv.options import Options

DIGITS = ["--models", str(ROOT / "models"), "--model", "digits"]
IMAGE = noise(76, 118, 3) // 3 + 150
SPREAD = 3
"""Standard deviation of a random network's logits, so that its probabilities range from 0 to 1."""


def score(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-c", "from fullconv.command.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def decided(folder: Path, classes: int, name: str) -> Network:
    """Return a random network whose logits over the windows of IMAGE have mean 0 and standard deviation SPREAD."""
    network = make_network(folder, UNPADDED.replace('"unpadded"', f'"{name}"'), classes=classes)
    logits = np.array(
        [network.scores(IMAGE[y : y + 22, x : x + 26]) for y in range(0, 54, 9) for x in range(0, 92, 13)]
    )
    scale = SPREAD / (logits - logits.mean(0)).std()
    weight, bias = network.tensors["d.weight"] * scale, (network.tensors["d.bias"] - logits.mean(0)) * scale
    last = {"d.weight": weight.astype(np.float32), "d.bias": bias.astype(np.float32)}
    save_file(network.tensors | last, network.checkpoint)
    return network


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of two classes and one of five."""
    folder = tmp_path_factory.mktemp("heatmaps")
    for name, classes in (("two", 2), ("five", 5)):
        convert_into(folder / "models", decided(folder, classes, name))
    return folder / "models"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Write IMAGE to a file; it has 14×24 windows at stride 4."""
    path = tmp_path / "image.png"
    path.write_bytes(png(IMAGE))
    return path


def softmax(scores: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(-1, keepdims=True)
    return probabilities


def at_cells(heat: np.ndarray, grid: Path, width: int) -> np.ndarray:
    """Return the picture's pixel (rows, cols, 3) in the middle of every window of a grid."""
    scale = 1200 / width
    with np.load(grid) as cells:
        y, x = ((cells[name] + cells["window"][axis] / 2) * scale for axis, name in enumerate("yx"))
    return heat[np.ix_(y.astype(int), x.astype(int))].astype(int)


@pytest.mark.parametrize(
    ("model", "options", "shown"),
    [
        ("two", [], 1),
        ("two", ["--heatmap-class", "0"], 0),
        ("five", ["--classes", "3"], 3),
        ("five", ["--heatmap-class", "4"], 4),
    ],
    ids=["two", "other", "one of five", "named"],
)
def test_one_class_is_painted_by_its_probability(
    models: Path, image: Path, tmp_path: Path, model: str, options: list[str], shown: int
) -> None:
    """The picture is grey where softmax over all classes is low, and redder where it is higher."""
    base = [image, "--models", models, "--model", model, "--stride", 4]
    whole, heat, part = tmp_path / "whole.npz", tmp_path / "heat.png", tmp_path / "part.npz"
    assert score(*base, "--grid", whole).returncode == 0
    result = score(*base, *options, "--grid", part, "--heatmap", heat)
    assert result.returncode == 0, result.stderr
    with np.load(whole) as cells:
        p = softmax(cells["scores"])[..., shown]
    assert (p < 0.1).sum() > 10 and (p > 0.6).sum() > 10  # noqa: PT018 (the test's own premise)
    pixels = at_cells(picture(heat), whole, 118)
    assert_array_equal(np.ptp(pixels[p < 0.09], axis=-1), 0)
    red = pixels[..., 0] - pixels[..., 2]
    assert red[p > 0.6].min() > 60
    clear = (p > 0.15) & (p < 0.45)
    assert np.corrcoef(p[clear], red[clear])[0, 1] > 0.9


@pytest.mark.parametrize("where", ["local", pytest.param("server", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        pytest.param(["--classes", "3"], [], id="one"),
        pytest.param(
            ["--classes", "4,1", "--average", "probabilities", "--top", "1"], [], id="two", marks=pytest.mark.slow
        ),
        pytest.param(["--classes", "2,0", "--flip"], ["--heatmap-class", "4"], id="foreign", marks=pytest.mark.slow),
    ],
)
def test_the_answer_is_the_same_with_a_heatmap(
    models: Path, image: Path, tmp_path: Path, where: str, options: list[str], shown: list[str]
) -> None:
    """The JSON, the table and the grid are the same with and without --heatmap, in this process and on a server."""
    with running(models) as server:
        place = ["--models", models] if where == "local" else ["--server", server.address]
        base = [image, "--model", "five", *place, *options, "--stride", 4]
        outputs = []
        for name, more in (("without", []), ("with", ["--heatmap", tmp_path / "heat.png", *shown])):
            result = score(*base, "--json", "--grid", tmp_path / f"{name}.npz", *more)
            assert result.returncode == 0, result.stderr
            outputs.append(json.loads(result.stdout))
            assert outputs[-1].pop("timing_ms")
            with np.load(tmp_path / f"{name}.npz") as cells:
                outputs[-1]["cells"] = {key: cells[key].tolist() for key in cells}
            table = score(*base, *more)
            outputs[-1]["table"] = table.stdout.split("\n\n")[1]
    assert outputs[0] == outputs[1]


@pytest.mark.slow
def test_heatmaps_are_the_same_on_a_server(models: Path, image: Path, tmp_path: Path) -> None:
    """A server and this process draw the same heatmap, for an image in one message and in parts."""
    large = tmp_path / "large.png"
    large.write_bytes(png(noise(1500, 1500, 3)))
    with running(models) as server:
        for number, path in enumerate((image, large)):
            for where, place in (("local", ["--models", models]), ("server", ["--server", server.address])):
                result = score(
                    path, "--model", "five", *place, "--classes", 1, "--heatmap", tmp_path / f"{where}{number}.png"
                )
                assert result.returncode == 0, result.stderr
            assert (tmp_path / f"local{number}.png").read_bytes() == (tmp_path / f"server{number}.png").read_bytes()


def test_narrowed_answers_equal_narrow_ones(models: Path, image: Path) -> None:
    """An answer reduced to some classes equals the answer to a request for these classes."""
    scorer = Scorer(models)
    options = Options(classes=["4", "2"], grid=True, top=2)
    narrow = scorer.score(image, model="five", **options)
    outputs = Outputs(heatmaps=("unused.png",), heatmap_class="1")
    writer = OutputWriter(outputs, options, "", lambda version: scorer.model("five", version))
    needed: Options = {**options, **writer.needed_options()}
    wide = scorer.score(image, model="five", **needed)
    assert wide.classes == (0, 1, 2, 3, 4)
    answer = writer.chosen(wide)
    assert answer.header == narrow.header
    assert answer.top == narrow.top
    assert_array_equal(narrow.average, answer.average)
    documents = [one.document() for one in (answer, narrow)]
    for document in documents:
        del document["timing_ms"]
    assert documents[0] == documents[1]


@pytest.mark.parametrize(
    ("options", "status", "expected_message"),
    [
        (["--grid", "out.txt"], 2, "or .geojson or .tif, got 'out.txt'"),
        (["--grid", "out"], 2, "--grid: expected a file name that ends in .npz or .zarr"),
        (
            ["--heatmap", "out.gif"],
            2,
            "--heatmap: expected a file name that ends in .png or .jpg or .jpeg or .webp or .tif or .tiff, got",
        ),
        (["--heatmap", "out.npz"], 2, ".png or .jpg or .jpeg or .webp"),
        (["--heatmap", "a.b.{stem}"], 2, ".png or .jpg or .jpeg or .webp"),
        (["--heatmap-class", "3"], 2, "--heatmap-class: expected --heatmap with it"),
        (
            ["--heatmap", "out.png", "--heatmap-class", "cat"],
            3,
            "heatmap-class: expected labels of model 'digits' or 0 to 10, got 'cat'",
        ),
        (
            ["--heatmap", "out.png", "--classes", "cat"],
            3,
            "classes: expected labels of model 'digits' or 0 to 10, got 'cat'",
        ),
    ],
)
def test_unknown_formats_and_classes(
    image: Path, tmp_path: Path, options: list[str], status: int, expected_message: str
) -> None:
    """Unknown formats are exit status 2, unknown classes exit status 3, and nothing is written."""
    placed = [str(tmp_path / "out" / option) if "out" in option or "{" in option else option for option in options]
    (tmp_path / "out").mkdir()
    result = CliRunner().invoke(app, list(map(str, [image, *DIGITS, *placed])))
    assert result.exit_code == status, result.stderr
    assert expected_message in " ".join(result.stderr.split()).replace(f"{tmp_path / 'out'}/", "")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", [".NPZ", ".Png", ".JPEG", ".WebP"])
def test_suffixes_may_be_of_any_case(tmp_path: Path, suffix: str) -> None:
    """A suffix in upper case stands for the same format."""
    path = tmp_path / "window.png"
    path.write_bytes(png(noise(80, 80, 1)))
    out = tmp_path / f"out{suffix}"
    result = score(path, *DIGITS, "--grid" if suffix == ".NPZ" else "--heatmap", out)
    assert result.returncode == 0, result.stderr
    magic = {".NPZ": b"PK", ".Png": b"\x89PNG", ".JPEG": b"\xff\xd8\xff", ".WebP": b"RIFF"}[suffix]
    assert out.read_bytes().startswith(magic)


def test_a_heatmap_of_a_pipe_has_a_remark(tmp_path: Path) -> None:
    """If the image cannot be read again, the heatmap is white, and standard error says so once."""
    pipe, pictures = tmp_path / "pipe", [tmp_path / "a.png", tmp_path / "a.tif"]
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(png(noise(90, 111, 1)),))
    writer.start()
    result = score(pipe, *DIGITS, *[part for each in pictures for part in ("--heatmap", each)])
    writer.join()
    assert result.returncode == 0, result.stderr
    expected = "cannot be read again: expected a file, got a pipe or a folder; the background is white"
    assert result.stderr.splitlines() == [f"fullconv-score: {pipe}: heatmap: {expected}"]
    assert all(each.exists() for each in pictures)
