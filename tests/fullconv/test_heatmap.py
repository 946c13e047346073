"""Pictures of heatmaps, drawn from invented answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal, assert_array_less
from support.heatmaps import axis, draw, header, make_shown

from fullconv.grid import ImageInfo
from fullconv.heatmap.figure import BAR, BAR_LONGEST, CAPTION, EDGE, LEGEND
from fullconv.heatmap.layout import layout_of
from fullconv.images import Region


def middle(heat: np.ndarray, row: int, col: int, cols: int) -> np.ndarray:
    """Return the pixel in the middle of a cell, for an image that is wider than high."""
    cell = 1200 / cols
    pixel: np.ndarray = heat[int((row + 0.5) * cell), int((col + 0.5) * cell)]
    return pixel.astype(int)


def bar(heat: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the pixels along the colour bar of a single class, from its low end to its high end."""
    layout = layout_of(width, height, labels=False)
    length = min(BAR_LONGEST, layout.panel.height / layout.unit - CAPTION - LEGEND)
    x = round(layout.panel.left + (EDGE + BAR / 2) * layout.unit)
    top, bottom = (round(end * layout.unit) for end in (CAPTION, CAPTION + length))
    return heat[top:bottom, x].astype(int)[::-1]


def test_winners_are_where_they_belong(tmp_path: Path) -> None:
    """The cell with the highest score is yellow, the lowest is dark blue, and the most common winner is not painted."""
    scores = np.full((20, 30, 3), -9.0)
    scores[..., 0] = 1
    scores[3:8, 20:26, 1] = 2
    scores[12:17, 4:10] = (-1, 0, -1)
    labels = ["ground", "thing", "nothing"]
    heat = draw(tmp_path, scores, make_shown(labels), labels)
    red, green, blue = middle(heat, 5, 23, 30)
    assert min(red, green) > blue + 60
    red, green, blue = middle(heat, 14, 7, 30)
    assert green < blue
    assert max(red, green) < 160
    assert_array_equal([255] * 3, middle(heat, 10, 15, 30))


@pytest.mark.parametrize(
    ("kind", "labels", "logits"),
    [
        ("logits-softmax", ["normal", "tumour"], lambda p: np.stack([np.zeros_like(p), np.log(p / (1 - p))], -1)),
        ("logits-sigmoid", ["tumour"], lambda p: np.log(p / (1 - p))[..., None]),
        ("probabilities", ["normal", "tumour"], lambda p: np.stack([1 - p, p], -1)),
        ("logits-sigmoid", ["a", "tumour", "b"], lambda p: np.stack([p, np.log(p / (1 - p)), 9 + p], -1)),
    ],
    ids=["two", "one", "probabilities", "named"],
)
def test_one_class_is_its_probability(
    tmp_path: Path, kind: str, labels: list[str], logits: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Low probabilities leave the image unchanged; higher ones are redder, in the colours of the colour bar."""
    p = np.linspace(0.02, 0.98, 25)[None].repeat(18, 0)
    tumour = make_shown(labels, kind, single="tumour" if len(labels) == 3 else None)
    heat = draw(tmp_path, logits(p), tumour, labels)
    pixels = np.array([middle(heat, 2, col, 25) for col in range(25)])
    assert_array_equal(pixels[p[0] < 0.1], 255)
    colourful = np.ptp(pixels[p[0] > 0.12], axis=1)
    assert (np.diff(colourful[: len(colourful) // 2]) > 0).all()
    assert (pixels[-1][0] - pixels[-1][1:] > 100).all()
    colours = bar(heat, 250, 180)
    line = np.flatnonzero((colours[5:-5] < 60).all(axis=1)) + 5
    assert_allclose(line.mean() / len(colours), 0.5, atol=0.01)  # the threshold
    for probability, pixel in zip(p[0], pixels, strict=True):
        if abs(probability - 0.5) > 0.05:
            assert_allclose(colours[round(probability * len(colours))], pixel, atol=8)


def test_a_probability_of_one_is_never_less_than_another(tmp_path: Path) -> None:
    """The colour scale does not depend on the image: low probabilities are not painted even if they are the highest."""
    scores = np.zeros((6, 9, 2))
    scores[..., 1] = -4
    scores[2, 3, 1] = -3
    heat = draw(tmp_path, scores, make_shown(["normal", "tumour"]), ["normal", "tumour"])
    assert heat[: 6 * 133, :1190].min() == 255


def test_raw_scores_are_drawn_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    """For raw scores the lowest is not painted, the highest is, and the colour bar has no threshold."""
    scores = np.linspace(-700, 900, 54).reshape(6, 9, 1)
    heat = draw(tmp_path, scores, make_shown(["cells"], "raw"), ["cells"])
    assert_array_equal([255] * 3, middle(heat, 0, 0, 9))
    assert np.ptp(middle(heat, 5, 8, 9)) > 100
    colours = bar(heat, 90, 60)
    assert not (colours[5:-5] < 60).all(axis=1).any()


def test_winners_may_be_probabilities(tmp_path: Path) -> None:
    """If probabilities are averaged, the colour of a winner is its probability instead of its score."""
    labels = ["ground", "low", "high"]
    scores = np.full((6, 9, 3), (5.0, 0, 0))
    scores[1:3, 1:3] = (90, 91, 90)  # a high score, and a probability of 0.58
    scores[1:3, 5:7] = (0, 0, 9)  # a lower score, and a probability of 1
    by_score = draw(tmp_path, scores, make_shown(labels), labels)
    by_probability = draw(tmp_path, scores, make_shown(labels, average="probabilities"), labels)
    for heat, col in ((by_score, 2), (by_probability, 6)):
        red, green, blue = middle(heat, 2, col, 9)
        assert min(red, green) > blue + 60
    assert_array_less(middle(by_score, 2, 6, 9)[1], middle(by_score, 2, 2, 9)[1])
    assert_array_less(middle(by_probability, 2, 2, 9)[0], middle(by_probability, 2, 2, 9)[1] - 60)


@pytest.mark.parametrize("label", ["$\\frac{a$", "US$ and x$", "x" * 300, "naïve ✓", "图", ""], ids=range(6))
@pytest.mark.parametrize("single", ["b", None], ids=["one", "winners"])
def test_any_label_can_be_drawn(tmp_path: Path, label: str, single: str | None) -> None:
    """Labels with formulas, underscores and unknown scripts are drawn as text."""
    labels = ["a", label, "_hidden", "b"]
    scores = np.random.default_rng(0).standard_normal((9, 9, 4))
    one = make_shown(labels, single=label if single and label else single)
    assert draw(tmp_path, scores, one, labels).std() > 5


def test_cells_that_were_not_scored_show_the_image(tmp_path: Path) -> None:
    """Cells outside of a mask are not painted, for a single class and for winners."""
    scores = np.zeros((20, 30, 3))
    scores[..., 1] = 9
    scores[:, :5] = (10, 0, 0)
    scores[:, 12:] = (10, 0, 0)
    scores[:, 8:12] = np.nan
    labels = ["ground", "thing", "nothing"]
    for one in (make_shown(labels), make_shown(labels, single="thing")):
        heat = draw(tmp_path, scores, one, labels)
        assert np.ptp(middle(heat, 10, 6, 30)) > 30
        assert middle(heat, 10, 10, 30).min() == 255


def test_heatmaps_without_painted_cells(tmp_path: Path) -> None:
    """If one class wins everywhere, or no cell was scored, only the image and the legend are drawn."""
    labels = ["ground", "thing", "nothing"]
    for scores in (np.full((6, 9, 3), (1.0, 0, 0)), np.full((6, 9, 3), np.nan)):
        for one in (make_shown(labels), make_shown(labels, "raw", single="thing")):
            heat = draw(tmp_path, scores, one, labels)
            assert heat[:800, :1190].min() > 100


def test_windows_flush_with_the_edge_are_drawn_there(tmp_path: Path) -> None:
    """The last row and column, flush with the edge, are drawn between the lattice and the edge."""
    scores = np.zeros((4, 4, 1))
    scores[-1] = 1
    grid = header(axis(4, last=26), axis(4, last=26), ["a"])
    heat = draw(tmp_path, scores, make_shown(["a"], "probabilities"), grid).astype(int)
    pixel = 1200 / 36
    lattice, flush = (heat[round(y * pixel), round(5 * pixel)] for y in (29, 33))
    assert lattice.min() == 255
    assert flush[0] > flush[2] + 100


def test_only_the_region_is_drawn(tmp_path: Path) -> None:
    """The heatmap of a region shows only the region, with its cells in their places."""
    pixels = np.zeros((300, 400), np.uint8)
    pixels[100:220, 50:290] = np.arange(16, 256, 1)
    scores = np.zeros((12, 24, 1))
    scores[3, 20] = 1
    grid = header(axis(12, 100, 210), axis(24, 50, 280), ["a"])
    grid = replace(grid, image=ImageInfo("i", 400, 300))
    one, region = make_shown(["a"], "probabilities"), Region(50, 100, 240, 120)
    heat = draw(tmp_path, scores, one, grid, region=region, pixels=pixels).astype(int)
    assert_allclose(heat[300, 10:1190], np.linspace(18, 252, 1180)[:, None].repeat(3, 1), atol=3)
    assert heat[int(3.5 * 50), int(20.5 * 50)][0] > heat[int(3.5 * 50), int(20.5 * 50)][2] + 50
    assert_array_equal(np.ptp(heat[int(3.5 * 50), [int(18.9 * 50), int(22.1 * 50)]], axis=1), 0)


@pytest.mark.parametrize(
    ("name", "magic"),
    [("h.png", b"\x89PNG"), ("h.JPG", b"\xff\xd8\xff"), ("h.jpeg", b"\xff\xd8\xff"), ("h.webp", b"RIFF")],
)
def test_formats_follow_the_suffix(tmp_path: Path, name: str, magic: bytes) -> None:
    """The suffix decides the format of the file, which shows the same picture."""
    scores = np.linspace(0, 1, 54).reshape(6, 9, 1)
    one = make_shown(["a"], "probabilities")
    heat = draw(tmp_path, scores, one, ["a"], name=name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert_allclose(heat[..., :3].mean(), draw(tmp_path, scores, one, ["a"]).mean(), atol=1)
