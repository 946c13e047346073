"""Pages of results for a browser: their structure, values, tiles and refusals. tests/browser/ opens them."""

import json
import webbrowser
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from numpy.testing import assert_allclose, assert_array_equal
from support.heatmaps import axis, header
from support.pages import ANSWER, read_page, write_page
from support.paths import ROOT
from support.pictures import encode, noise
from support.servers import running
from typer.testing import CliRunner

from fullconv import Answer, Scorer
from fullconv.command.cli import app
from fullconv.common.probabilities import RAW
from fullconv.page import values

MODELS = ROOT / "models"
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "$policy ${title} \\u003c &lt;",
    "日本語 العربية é",
    "x" * 5000,
    "\u202ereversed\n\x07",
]


def score(*arguments: object, status: int = 0) -> str:
    """Run the command with the shipped models; returns its output on one line."""
    words = [str(each) for each in (*arguments, "--models", MODELS, "--model", "digits")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == status, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of noise with 5×8 windows."""
    path = tmp_path_factory.mktemp("image") / "noise.png"
    path.write_bytes(encode(noise(105, 130, 1), ".png"))
    return path


@pytest.fixture(scope="module")
def answer(image: Path) -> Answer:
    """Return the image's answer with its grid."""
    return Scorer(MODELS).score(image, model="digits", grid=True)


def test_values_of_the_command(image: Path, tmp_path: Path) -> None:
    """The page has the probabilities of the scores in the .npz file, to half a step, and their top classes."""
    score(image, "--grid", tmp_path / "grid.npz", "--html", tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    with np.load(tmp_path / "grid.npz") as grid:
        powers = np.exp(grid["scores"] - grid["scores"].max(-1, keepdims=True))
        x, y, window = grid["x"], grid["y"], grid["window"]
    expected = powers / powers.sum(-1, keepdims=True)
    shown = page.document["values"]
    assert (shown["bits"], shown["planes"], shown["kind"]) == (16, 11, "probability")
    for position in range(11):
        assert_allclose(page.values(position), expected[..., position], atol=0.5001 / 65535)
    assert_allclose(page.values(), expected.max(-1), atol=0.5001 / 65535)
    assert_array_equal(page.top, expected.argmax(-1))
    assert [each["cells"] for each in shown["classes"]] == np.bincount(page.top.ravel(), minlength=11).tolist()
    assert_array_equal(page.document["grid"]["cols"]["starts"], x)
    assert_array_equal(page.document["grid"]["rows"]["ends"], y + window[0])
    assert_array_equal(page.document["grid"]["cols"]["edges"], [31 + 8 * number for number in range(9)])


def test_the_answer_in_the_page(image: Path, tmp_path: Path) -> None:
    """The page has the document that --json prints."""
    printed = CliRunner().invoke(
        app, [str(image), "--models", str(MODELS), "--model", "digits", "--json", "--html", str(tmp_path / "page.html")]
    )
    expected, got = json.loads(printed.stdout), read_page(tmp_path / "page.html").document["answer"]
    del expected["timing_ms"], got["timing_ms"]
    assert expected == got


@pytest.mark.slow
def test_a_page_of_a_server_and_of_an_answer(image: Path, tmp_path: Path, answer: Answer) -> None:
    """A server and `Answer.save` give the same values, and --classes chooses the classes of a page."""
    with running(MODELS) as server:
        command = [str(image), "--server", server.address, "--model", "digits", "--classes", "background,3"]
        result = CliRunner().invoke(app, [*command, "--html", str(tmp_path / "few.html")])
    assert result.exit_code == 0, result.output
    few = read_page(tmp_path / "few.html")
    answer.save(tmp_path / "all.html")
    every = read_page(tmp_path / "all.html")
    assert [each["label"] for each in few.document["values"]["classes"]] == ["background", "3"]
    assert_allclose(few.values(0), every.values(10), atol=1e-4)
    assert_allclose(few.values(1), every.values(3), atol=1e-4)
    assert {entry["label"] for entry in few.document["answer"]["average"]["top"]} == {"background", "3"}


def test_structure(answer: Answer, tmp_path: Path) -> None:
    """The page loads nothing, and its policy allows its own scripts, its own style and images inside it."""
    answer.save(tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    assert page.html.startswith("<!doctype html>")
    assert not [each for each in page.elements if {"src", "href", "onclick", "style"} & set(each.attributes)]
    run = [each for each in page.named("script") if "type" not in each.attributes]
    (style,) = page.named("style")
    allowed = [f"'sha256-{b64encode(sha256(each.text.encode()).digest()).decode()}'" for each in (*run, style)]
    (policy,) = [each.attributes["content"] for each in page.named("meta") if "http-equiv" in each.attributes]
    assert policy == (
        f"default-src 'none'; script-src {allowed[0]} {allowed[1]}; style-src {allowed[2]}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    (title,) = page.named("title")
    assert title.text.strip() == "noise.png – digits/1"
    assert "Redistribution and use in source and binary forms" in run[0].text


@pytest.mark.parametrize("label", HOSTILE, ids=["tag", "comment", "template", "unicode", "long", "control"])
def test_hostile_text(label: str, tmp_path: Path) -> None:
    """Labels and names add no element to the page, and arrive whole but for control characters."""
    answer = {**ANSWER, "image": {"name": label}, "model": label, "warnings": [label]}
    page = write_page(tmp_path, np.ones((2, 3, 2)), labels=[label, "b"], answer=answer)
    plain = write_page(tmp_path, np.ones((2, 3, 2)), labels=["a", "b"])
    assert [each.name for each in page.elements] == [each.name for each in plain.elements]
    expected = "".join(letter if letter.isprintable() else "?" for letter in label)
    assert page.document["values"]["classes"][0]["label"] == expected
    assert page.document["answer"] == {
        **ANSWER, "image": {"name": expected}, "model": expected, "warnings": [expected]
    }  # fmt: skip
    (title,) = page.named("title")
    assert title.text.strip() == f"{expected} – {expected}/1"


def test_cells_that_were_not_scored(tmp_path: Path) -> None:
    """Cells without scores have no top class, and count for no class."""
    scores = np.random.default_rng(1).random((4, 5, 3))
    scores[1, 2] = scores[3] = np.nan
    page = write_page(tmp_path, scores)
    assert_array_equal(page.top == 0xFFFF, np.isnan(scores[..., 0]))
    assert sum(each["cells"] for each in page.document["values"]["classes"]) == 14
    assert_allclose(page.values(1)[0], scores[0, :, 1], atol=1e-4)


def test_scores_without_probabilities(tmp_path: Path) -> None:
    """Scores are stored between the lowest and the highest of all; numbers that JSON does not have are left out."""
    scores = np.random.default_rng(2).normal(3, 50, (4, 5, 3))
    answer = {**ANSWER, "average": {"of": "scores", "top": [{"label": "a", "score": float("nan")}]}}
    page = write_page(tmp_path, scores, kind=RAW, answer=answer)
    shown = page.document["values"]
    assert (shown["kind"], shown["low"], shown["high"]) == (
        "score",
        np.float32(scores.min()),
        np.float32(scores.max()),
    )
    assert_allclose(page.values(2), scores[..., 2], atol=1e-3 * np.ptp(scores))
    assert page.document["answer"]["average"]["top"][0]["score"] is None


def test_the_classes_with_the_highest_values(tmp_path: Path) -> None:
    """Of many classes a page has the 32 with the highest values, and names the others that win a cell."""
    scores = np.random.default_rng(3).random((3, 2, 50)) * 0.5
    scores[..., 10:42] += 0.4
    scores[0, 0, 10:42] = 0.1
    scores[0, 0, 7] = 0.3
    page = write_page(tmp_path, scores)
    shown = page.document["values"]
    assert {each["index"] for each in shown["classes"][:32]} == set(range(10, 42))
    indices = np.array([each["index"] for each in shown["classes"]])
    assert_array_equal(indices[page.top], scores.argmax(-1))
    assert (shown["planes"], shown["of"]) == (32, 50)
    for position in (0, 31):
        assert_allclose(page.values(position), scores[..., indices[position]], atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "cols", "classes", "expected"),
    [
        (88, 120, 11, (88, 120, 11, 1, 16)),
        (1875, 2500, 5, (1875, 2500, 5, 1, 8)),
        (1875, 2500, 11, (1875, 2500, 8, 1, 8)),
        (4000, 4000, 2, (4000, 4000, 2, 1, 8)),
        (4000, 4000, 1000, (2000, 2000, 10, 2, 8)),
        (3, 20_000, 2, (1, 6667, 2, 3, 16)),
    ],
)
def test_the_size_of_a_page(rows: int, cols: int, classes: int, expected: tuple[int, ...]) -> None:
    """Larger grids have fewer bits, then fewer classes, and then blocks of windows."""
    extent = values.extent_of(header(axis(rows), axis(cols), [""] * classes))
    assert (extent.rows, extent.cols, extent.classes, extent.step, extent.bits) == expected


@pytest.mark.parametrize("missing", [False, True], ids=["all", "some"])
def test_blocks_of_windows(missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """A block has the highest value of each class among its windows, and the box around them."""
    monkeypatch.setattr(values, "MAX_BYTES", 9 * 3)
    scores = np.random.default_rng(4).random((8, 7, 3))
    if missing:
        scores[:4, 3:6] = scores[2, 2] = np.nan
    page = write_page(tmp_path, scores)
    assert page.document["grid"]["step"] == 3
    padded = np.pad(scores, ((0, 1), (0, 2), (0, 0)), constant_values=np.nan).reshape(3, 3, 3, 3, 3)
    expected = np.nan_to_num(np.fmax.reduce(padded, axis=(1, 3)), nan=0.0)
    for position in range(3):
        assert_allclose(page.values(position), expected[..., position], atol=0.5001 / 255)
    known = expected.any(axis=-1)
    assert_array_equal(page.top, np.where(known, expected.argmax(-1), 0xFFFF))
    assert page.document["grid"]["rows"] == {"edges": [0, 30, 60, 80], "starts": [0, 30, 60], "ends": [30, 60, 80]}


def test_the_colours_of_a_model(tmp_path: Path, answer: Answer) -> None:
    """A page has the colours of the model's classes, and colour maps of 256 colours."""
    model = replace(Scorer(MODELS).model("digits"), colours=("#c01040", *[""] * 10))
    answer.save(tmp_path / "page.html", model=model)
    document = read_page(tmp_path / "page.html").document
    assert [each["colour"] for each in document["values"]["classes"]] == ["#c01040", *[None] * 10]
    assert len(document["colour_maps"]) == 4
    for name, colours in document["colour_maps"].items():
        expected = colormaps[name](np.linspace(0, 1, 256), bytes=True)[:, :3]
        assert_array_equal(np.frombuffer(b64decode(colours), np.uint8).reshape(256, 3), expected)


REFUSED: dict[str, tuple[list[str], str]] = {
    "a suffix": (["--html", "page.htm"], "ends in .html"),
    "twice": (["--html", "page.html", "--html", "page.html"], "expected a different file for every image and output"),
    "nothing to open": (["--open"], "expected --html with it, got none"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(
    arguments: list[str], message: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong options end with status 2 before anything is written."""
    monkeypatch.chdir(tmp_path)
    assert message in score(image, *arguments, status=2)
    assert not list(tmp_path.iterdir())


def test_several_images_and_a_browser(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image has a page; --open opens the pages of images that were scored."""
    opened: list[str] = []

    def open_first(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", open_first)
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "a b#.png").write_bytes(image.read_bytes())
    names = ["--html", tmp_path / "{stem}.html", "--open"]
    printed = score(image, tmp_path / "bad.png", tmp_path / "a b#.png", *names, status=3)
    assert opened == [f"{tmp_path.as_uri()}/noise.html", f"{tmp_path.as_uri()}/a%20b%23.html"]
    assert f"open: no browser was found; open {tmp_path}/a b#.html yourself" in printed
    assert "expected {stem} in the name, since there are 2 images" in score(
        image, tmp_path / "bad.png", "--html", tmp_path / "one.html", status=2
    )


def test_nothing_is_written_for_a_plan(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--plan writes no page and opens none."""
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("opened"))
    score(image, "--plan", "--html", tmp_path / "page.html", "--open")
    assert not list(tmp_path.iterdir())


def test_the_library_in_the_package() -> None:
    """OpenSeadragon is the file whose sha256 the README beside it states."""
    assets = ROOT / "fullconv" / "page" / "assets"
    digest = sha256((assets / "openseadragon.min.js").read_bytes()).hexdigest()
    assert f"`{digest}`" in (assets / "README.md").read_text("utf-8")
