"""The contents and methods of an answer: values, boxes, heatmaps, files, xarray, and its display in notebooks."""

import asyncio
import pickle
import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support.heatmaps import picture
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import running
from typer.testing import CliRunner

from fullconv import Answer, AsyncClient, Client, ModelDescription, RequestError, Scorer
from fullconv.command.cli import app
from fullconv.options import Options

MODELS = ROOT / "models"
PAGE = MODELS / "digits" / "page.png"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Return the shipped model, in this process."""
    return Scorer(MODELS)


@pytest.fixture(scope="module")
def answer(scorer: Scorer) -> Answer:
    """Return the shipped page, with its grid."""
    return scorer.score(PAGE, model="digits", grid=True)


def grid_of(answer: Answer) -> np.ndarray:
    """Return the scores of every window, which the fixture has requested."""
    assert answer.grid is not None
    return answer.grid


def command(*arguments: object) -> None:
    """Run the command on the shipped page."""
    result = CliRunner().invoke(app, [str(PAGE), "--model", "digits", "--models", str(MODELS), *map(str, arguments)])
    assert result.exit_code == 0, result.stderr


def test_values_of_an_answer(answer: Answer) -> None:
    """The values are plain numbers, text, tuples and numpy arrays, and their sizes agree."""
    rows, cols, classes = grid_of(answer).shape
    assert (rows, cols, classes) == (len(answer.y), len(answer.x), len(answer.labels)) == (88, 120, 11)
    assert (answer.classes, answer.labels[10]) == (tuple(range(11)), "background")
    assert (answer.window, answer.stride, answer.left_out) == ((70, 70), (8, 8), (2, 2))
    assert (answer.image.name, answer.image.width, answer.image.height) == ("page.png", 1024, 768)
    assert (answer.model, answer.version, answer.mode, answer.warnings) == ("digits", "1", "dense", ())
    assert answer.timing.total_ms >= answer.timing.compute_ms > 0
    assert_allclose(answer.average, grid_of(answer).mean((0, 1), dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert [entry.index for entry in answer.top] == list(np.argsort(-answer.average)[:5])
    values = [value for value in vars(answer).values() if value is not answer.describe]
    assert {type(value).__module__.partition(".")[0] for value in values} <= {"builtins", "numpy", "fullconv"}


@pytest.mark.parametrize("options", [{}, {"roi": (100, 50, 300, 200)}, {"border": "anchor"}, {"stride": 4}], ids=str)
def test_boxes_are_the_windows(scorer: Scorer, options: Options) -> None:
    """The pixels of a box, cut out and scored by themselves, have the scores of its cell."""
    with_grid: Options = {**options, "grid": True}
    answer = scorer.score(PAGE, model="digits", **with_grid)
    boxes, grid, pixels = answer.boxes, grid_of(answer), np.asarray(Image.open(PAGE).convert("L"))
    assert boxes.shape == (*grid.shape[:2], 4)
    assert np.issubdtype(boxes.dtype, np.int64)
    for row, col in ((0, 0), (5, 7), (-1, -1)):
        x, y, width, height = boxes[row, col]
        assert (x, y, width, height) == (answer.x[col], answer.y[row], 70, 70)
        alone = scorer.score(pixels[y : y + height, x : x + width].copy(), model="digits")
        assert_allclose(alone.average, grid[row, col], rtol=1e-4, atol=1e-4)


def test_boxes_of_scaled_images_end_inside(scorer: Scorer) -> None:
    """The boxes of a scaled image are in pixels of the image itself, and lie inside it."""
    boxes = scorer.score(noise(151, 203, 1), model="digits", scales=["1.5x"], border="anchor").boxes
    assert_array_equal(boxes[..., :2] + boxes[..., 2:] <= (203, 151), np.True_)
    assert_array_equal((boxes[-1, -1, :2] + boxes[-1, -1, 2:]), (203, 151))
    assert_allclose(boxes[..., 2:], 70 / 1.5, atol=1)


@pytest.mark.parametrize(
    ("suffix", "class_", "option"),
    [(".png", None, []), (".JPG", "3", ["--heatmap-class", "3"]), (".webp", 3, ["--heatmap-class", "3"])],
    ids=["winners", "label", "index"],
)
def test_heatmaps_are_those_of_the_command(
    answer: Answer, tmp_path: Path, suffix: str, class_: str | int | None, option: list[str]
) -> None:
    """`save` writes the same bytes as the command, in the format of the suffix."""
    command("--heatmap", tmp_path / f"expected{suffix}", *option)
    answer.save(tmp_path / f"saved{suffix}", class_)
    assert (tmp_path / f"saved{suffix}").read_bytes() == (tmp_path / f"expected{suffix}").read_bytes()


def test_heatmaps_are_pil_images(answer: Answer, tmp_path: Path) -> None:
    """`heatmap` returns a PIL image with the pixels of the saved file."""
    answer.save(tmp_path / "heat.png")
    assert_array_equal(picture(tmp_path / "heat.png"), np.asarray(answer.heatmap()))


@pytest.mark.parametrize("form", ["path", "bytes", "array"])
def test_heatmaps_show_what_was_scored(scorer: Scorer, form: str) -> None:
    """The background is the region that was scored, for images in every form."""
    pixels = np.asarray(Image.open(PAGE).convert("L"))
    forms: dict[str, Path | bytes | np.ndarray] = {"path": PAGE, "bytes": PAGE.read_bytes(), "array": pixels}
    image = forms[form]
    answer = scorer.score(image, model="digits", grid=True, roi=(256, 128, 512, 384))
    heat = np.asarray(answer.heatmap())[:900, :1200].astype(float)
    expected = np.asarray(Image.fromarray(pixels[128:512, 256:768]).resize((1200, 900))).astype(float)
    assert np.corrcoef(heat.mean(axis=-1).ravel(), expected.ravel())[0, 1] > 0.5


def test_grids_are_those_of_the_command(answer: Answer, tmp_path: Path) -> None:
    """`save` writes the same arrays as the command."""
    command("--grid", tmp_path / "expected.npz")
    answer.save(tmp_path / "saved.npz")
    with np.load(tmp_path / "expected.npz") as expected, np.load(tmp_path / "saved.npz") as saved:
        assert list(expected) == list(saved)
        for name in expected:
            assert_array_equal(expected[name], saved[name])


def test_heatmaps_of_half_precision(scorer: Scorer, answer: Answer) -> None:
    """The heatmaps of a float16 grid and of a float32 grid are equal to rounding."""
    half = scorer.score(PAGE, model="digits", grid="float16")
    assert grid_of(half).dtype == np.float16
    one, other = (np.asarray(each.heatmap("3")).astype(int) for each in (answer, half))
    assert np.mean(np.abs(one - other)) < 0.1


@pytest.mark.parametrize(
    ("options", "expected_message"),
    [
        ({}, "expected every window's scores, got none; score with grid=True"),
        (
            {"grid": "top"},
            "expected every window's scores, got the highest scores of each window; score with grid=True",
        ),
    ],
    ids=["none", "top"],
)
def test_outputs_that_need_the_grid(scorer: Scorer, tmp_path: Path, options: Options, expected_message: str) -> None:
    """Without every window's scores, `heatmap` and `save` are refused, and nothing is written."""
    answer = scorer.score(noise(90, 90, 1), model="digits", **options)
    for name in ("heat.png", "grid.npz"):
        with pytest.raises(RequestError, match=expected_message):
            answer.save(tmp_path / name)
    with pytest.raises(RequestError, match=expected_message):
        answer.heatmap()
    assert not list(tmp_path.iterdir())


def test_heatmaps_of_missing_classes(scorer: Scorer, answer: Answer, tmp_path: Path) -> None:
    """Unknown classes, missing scores of other classes, and unknown suffixes are refused."""
    with pytest.raises(RequestError, match="expected labels of model 'digits' or 0 to 10, got 'cat'"):
        answer.heatmap("cat")
    part = scorer.score(noise(90, 90, 1), model="digits", grid=True, classes=["3"])
    with pytest.raises(RequestError, match="expected the scores of all 11 classes, got the scores of 1; score without"):
        part.heatmap()
    with pytest.raises(RequestError, match=r"expected a file name that ends in \.npz or .*, got '.*a\.txt'"):
        answer.save(tmp_path / "a.txt")


def test_images_that_cannot_be_read_again(scorer: Scorer, tmp_path: Path) -> None:
    """If the image cannot be read again, a warning says so and the background is white."""
    path = tmp_path / "gone.png"
    path.write_bytes(png(noise(140, 140, 1)))
    answer = scorer.score(path, model="digits", grid=True)
    path.unlink()
    with pytest.warns(UserWarning, match=r"heatmap: gone\.png: cannot be read again: No such file"):
        heat = answer.heatmap("3")
    assert np.asarray(heat)[:100, :100].min() > 100


@pytest.mark.slow
def test_heatmaps_need_the_models_description(tmp_path: Path) -> None:
    """An answer requests the model's description with its client, or takes it as an argument."""

    async def request_both(address: str) -> tuple[Answer, ModelDescription]:
        async with AsyncClient(address) as client:
            return await client.score(PAGE, model="digits", grid=True), await client.model("digits")

    with running(MODELS) as server:
        with Client(server.address) as client:
            answer = client.score(PAGE, model="digits", grid=True)
            expected = np.asarray(answer.heatmap())
            later = client.score(PAGE, model="digits", grid=True)
        asynchronous, model = asyncio.run(request_both(server.address))
    assert_array_equal(expected, np.asarray(later.heatmap()))  # the client has cached the description
    message = r"this answer cannot request by itself; pass it, for example heatmap\(model=await client\.model\(name\)\)"
    with pytest.raises(RequestError, match=message):
        asynchronous.heatmap()
    copied = pickle.loads(pickle.dumps(later))  # noqa: S301 (our own)
    for one in (asynchronous, copied):
        assert_array_equal(expected, np.asarray(one.heatmap(model=model)))
        one.save(tmp_path / "heat.png", model=model)
        assert_array_equal(expected, picture(tmp_path / "heat.png"))


def test_notebooks_show_a_table_and_the_heatmap(scorer: Scorer, answer: Answer) -> None:
    """The HTML has a table of the averages, and with a grid a small picture of the heatmap."""
    html = answer._repr_html_()
    assert re.search(r"<td>10</td><td>background</td><td>3\.6\d+</td>", html)
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert max(Image.open(BytesIO(b64decode(data))).size) == 480
    plain = scorer.score(noise(90, 90, 1), model="digits")._repr_html_()
    assert "<img" not in plain
    assert "3×3 windows of 70×70 pixels, 8 apart, without their scores" in plain


def test_notebooks_show_no_markup_of_others(answer: Answer) -> None:
    """Names, labels and warnings are escaped in the HTML."""
    bad = "<script>alert('x')</script>&\"><img src=x>"
    header = replace(answer.header, image=replace(answer.image, name=bad), labels=(bad,) * 11)
    top = tuple(replace(entry, label=bad) for entry in answer.top)
    html = replace(answer, header=header, top=top, warnings=(bad,), grid=None)._repr_html_()
    assert "<script" not in html
    assert html.count("<img") == 0
    assert set(re.findall(r"</?([a-z]+)", html)) == {"div", "b", "br", "table", "tr", "th", "td"}


def test_notebooks_state_why_the_picture_is_missing(answer: Answer) -> None:
    """The HTML of an answer without access to the model's description has the reason in place of the picture."""
    html = replace(answer, describe=None)._repr_html_()
    assert "<img" not in html
    assert "model: expected the model&#x27;s description" in html


def test_named_arrays_need_xarray(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without xarray, `to_xarray` raises an ImportError that says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(ImportError, match="to_xarray: expected the package xarray, got none; pip install xarray"):
        answer.to_xarray()


@pytest.mark.extras
def test_named_arrays(answer: Answer) -> None:
    """`to_xarray` returns the grid, which can be indexed by the windows' edges and by label."""
    array = answer.to_xarray()
    assert (array.dims, array.name) == (("row", "col", "class"), "scores")
    assert_array_equal(answer.grid, array)
    for name, expected in (("x", answer.x), ("y", answer.y), ("label", answer.labels)):
        assert_array_equal(array[name], expected)
    assert array.attrs["model"] == "digits"
    assert array.sel(label="3", x=80, y=160) == grid_of(answer)[20, 10, 3]


def test_narrowed_answers(answer: Answer) -> None:
    """`with_classes` returns the averages of some classes in a given order, without a grid."""
    part = answer.with_classes((3, 10))
    assert (part.classes, part.labels, part.grid) == ((3, 10), ["3", "background"], None)
    assert_array_equal(part.average, answer.average[[3, 10]])
    assert [entry.label for entry in part.top] == ["background", "3"]
    assert answer.with_classes(tuple(range(11))) is answer
