"""The styles of heatmaps: threshold, colour map, opacity, without legend, and the colours alone."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from numpy.testing import assert_allclose, assert_array_equal
from support.heatmaps import CELL, axis, draw, header, make_shown
from support.paths import ROOT
from support.pictures import noise, png
from typer.testing import CliRunner

from fullconv import HeatmapStyle, RequestError, Scorer
from fullconv.blocks import blocks_of
from fullconv.command.cli import app
from fullconv.grid import GridHeader, ImageInfo, WindowAxis
from fullconv.heatmap.cells import Winners
from fullconv.heatmap.content import winners_content

LABELS = ["a"]
ONE = make_shown(LABELS, "probabilities")
P = np.linspace(0, 1, 54).reshape(6, 9)
MODEL = ["--models", str(ROOT / "models"), "--model", "digits"]


def colours(p: np.ndarray, name: str, alpha: np.ndarray | float, *, share: float = 1.0) -> np.ndarray:
    """Return the colours (rows, cols, 4) of probabilities, in 256 steps, with an opacity from 0 to 1."""
    rgba = colormaps[name](np.round(p * 255) / 255 * share)
    rgba[..., 3] = alpha
    rounded: np.ndarray = np.round(rgba * 255)
    return rounded


def in_pixels(cells: np.ndarray) -> np.ndarray:
    """Return cells (rows, cols, channels) as squares of CELL pixels."""
    return cells.repeat(CELL, 0).repeat(CELL, 1)


def test_an_overlay_has_the_cells_exactly_at_their_pixels(tmp_path: Path) -> None:
    """Every pixel has the colour and the opacity of its cell, in the size of the image."""
    heat = draw(tmp_path, P[..., None], ONE, LABELS, style=HeatmapStyle(overlay=True))
    alpha = np.clip((np.round(P * 255) / 255 - 0.1) / 0.4, 0, 1) * 0.75
    assert_allclose(heat, in_pixels(colours(P, "YlOrRd", alpha, share=0.85)), atol=1)


def test_an_overlay_is_transparent_beside_the_cells(tmp_path: Path) -> None:
    """Cells are one stride wide around the centres of the windows; the last may be narrower; other pixels have none."""
    down, across = WindowAxis(3, 10, 30, 10, 30), WindowAxis(4, 0, 26, 10, 30)
    grid = GridHeader(ImageInfo("i", width=70, height=80), down, across, (0,), ("a",), 1)
    style = HeatmapStyle(overlay=True, threshold=0, opacity=1, colormap="YlOrRd")
    heat = draw(tmp_path, np.linspace(0, 1, 12).reshape(3, 4, 1), ONE, grid, style=style)
    assert heat.shape == (80, 70, 4)
    painted = np.zeros((80, 70), bool)
    painted[20:50, 10:46] = True
    assert_array_equal(heat[..., 3], painted * 255)
    for row, (top, bottom) in enumerate([(20, 29), (30, 39), (40, 49)]):
        for col, (left, right) in enumerate([(10, 19), (20, 29), (30, 39), (40, 45)]):
            corners = heat[[top, top, bottom, bottom], [left, right, left, right]]
            assert_array_equal(corners, colours(np.full(4, (row * 4 + col) / 11), "YlOrRd", 1.0))


@pytest.mark.parametrize("name", ["h.png", "h.webp", "h.TIF", "h.tiff"])
def test_overlays_of_every_format(tmp_path: Path, name: str) -> None:
    """PNG and TIFF hold the same colours and opacity; WebP holds the opacity."""
    style = HeatmapStyle(overlay=True)
    heat, same = (draw(tmp_path, P[..., None], ONE, LABELS, style=style, name=one) for one in (name, "other.png"))
    assert heat.shape == (60, 90, 4)
    assert_array_equal(heat[..., 3], same[..., 3])
    if name != "h.webp":
        assert_array_equal(heat, same)


def test_an_overlay_without_painted_cells_is_transparent(tmp_path: Path) -> None:
    """If no cell is painted, no pixel is."""
    labels, style = ["a", "b", "c"], HeatmapStyle(overlay=True)
    heat = draw(tmp_path, np.full((6, 9, 3), (1.0, 0, 0)), make_shown(labels), labels, style=style)
    assert not heat[..., 3].any()


def test_only_cells_that_reach_the_threshold_are_coloured(tmp_path: Path) -> None:
    """Cells with at least the threshold have the full opacity, and others none, also where the value is low."""
    heat = draw(tmp_path, P[..., None], ONE, LABELS, style=HeatmapStyle(overlay=True, threshold=float(P[1, 2])))
    assert_array_equal(heat[..., 3], in_pixels(191 * (P[1, 2] <= P)))


def test_the_threshold_of_winners_is_that_of_their_values(tmp_path: Path) -> None:
    """A cell is coloured if the value of its top class reaches the threshold."""
    labels = ["ground", "low", "high"]
    scores = np.full((6, 9, 3), (5.0, 0, 0))
    scores[1:3, 1:3] = (0, 6, 0)
    scores[1:3, 5:7] = (0, 0, 9)
    style = HeatmapStyle(overlay=True, threshold=7)
    heat = draw(tmp_path, scores, make_shown(labels), labels, style=style)
    assert_array_equal(heat[..., 3] > 0, in_pixels(scores.max(-1) == 9))


def test_the_legend_of_winners_counts_the_cells_that_reach_the_threshold() -> None:
    """The outlines and counts are those of coloured cells; the most common class is that of all cells."""
    blocks = blocks_of(axis(4), 1.0)
    cells = Winners(blocks, blocks, [0, 1, 2], None, 4)
    scores = np.full((4, 4, 3), (1.0, 0, 0), np.float32)
    scores[0, :2] = (0, 5, 0)
    scores[0, 2] = (0, 3, 0)
    scores[1, 0] = (0, 0, 2)
    cells.add_rows(0, scores)
    content = winners_content(cells, ["ground", "b", "c"], HeatmapStyle(threshold=4))
    assert [text for _, text in content.legend] == ["ground  (12),\nnot painted", "b  (2)"]
    assert [outlined.mask.sum() for outlined in content.outlined] == [2]
    assert content.title == "winning class (cells\nwith 4 or more)"


@pytest.mark.parametrize("name", ["magma", "Blues", "cividis_r"])
def test_colour_maps_are_those_of_matplotlib(tmp_path: Path, name: str) -> None:
    """A named colour map is used whole, from its first to its last colour."""
    heat = draw(tmp_path, P[..., None], ONE, LABELS, style=HeatmapStyle(overlay=True, threshold=0, colormap=name))
    assert_array_equal(heat, in_pixels(colours(P, name, 0.75)))


@pytest.mark.parametrize("opacity", [0.0, 0.4, 1.0])
def test_opacity(tmp_path: Path, opacity: float) -> None:
    """The colours cover the image by the opacity: at 0 they are not visible, at 1 the image is not."""
    pixels = noise(60, 90, 1)[..., 0]
    style = HeatmapStyle(threshold=0.0, colormap="magma", opacity=opacity, legend=False)
    heat = draw(tmp_path, np.full((6, 9, 1), 0.4), ONE, LABELS, style=style, pixels=pixels)
    colour = colours(np.full(1, 0.4), "magma", 0)[0, :3]
    expected = pixels[..., None] * (1 - opacity) + colour * opacity
    assert_allclose(heat[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1)  # a line surrounds all cells


@pytest.mark.parametrize(("size", "drawn"), [((60, 90), (60, 90)), ((500, 20), (500, 20)), ((40, 6000), (27, 4096))])
@pytest.mark.parametrize("overlay", [False, True], ids=["picture", "overlay"])
def test_without_legend_the_picture_has_the_size_of_the_image(
    tmp_path: Path, size: tuple[int, int], drawn: tuple[int, int], *, overlay: bool
) -> None:
    """The picture is the drawn image alone, in its own size or reduced to 4096 pixels; an overlay has the same size."""
    scores = np.zeros((size[0] // CELL, size[1] // CELL, 2))
    scores[..., 1] = 9
    scores[0, 0] = (9, 0)
    style = HeatmapStyle(legend=False, overlay=overlay)
    heat = draw(tmp_path, scores, make_shown(["no", "yes"]), ["no", "yes"], style=style)
    assert heat.shape[:2] == drawn
    assert heat.shape[2] == (4 if overlay else 3)


def test_outlines_and_labels_remain_without_legend(tmp_path: Path) -> None:
    """Without legend, regions of winners still have outlines and labels."""
    labels = ["ground", "thing"]
    scores = np.full((60, 90, 2), (1.0, 0))
    scores[20:40, 30:60] = (0, 5)
    shown = make_shown([*labels, "other"])
    three = np.pad(scores, ((0, 0), (0, 0), (0, 1)))
    plain = draw(tmp_path, three, shown, [*labels, "other"], style=HeatmapStyle(legend=False))
    colours_only = draw(tmp_path, three, shown, [*labels, "other"], style=HeatmapStyle(overlay=True))
    outside = colours_only[..., 3] == 0
    assert (np.ptp(plain[outside].astype(int), axis=-1) > 50).sum() > 100
    assert (np.ptp(plain[:5].astype(int), axis=-1) == 0).all()


def test_the_smallest_images_can_be_drawn_without_legend(tmp_path: Path) -> None:
    """An image of one small window gets a picture of the same size."""
    grid = header(axis(1), axis(1), ["a", "b", "c"])
    for single in (None, "c"):
        shown = make_shown(["a", "b", "c"], single=single)
        heat = draw(tmp_path, np.zeros((1, 1, 3)), shown, grid, style=HeatmapStyle(legend=False))
        assert heat.shape == (CELL, CELL, 3)


REFUSED = [
    ({"opacity": 2}, "opacity: expected a number from 0 to 1, got 2"),
    ({"opacity": float("nan")}, "opacity: expected a number from 0 to 1, got nan"),
    ({"scale": 0}, "scale: expected a factor above 0 and at most 1, got 0"),
    ({"scale": 1.5}, "scale: expected a factor above 0 and at most 1, got 1.5"),
    ({"threshold": float("inf")}, "threshold: expected a finite number, got inf"),
    (
        {"colormap": "jetz"},
        "colormap: expected a continuous colour map of matplotlib, such as viridis, magma, cividis, Blues, YlOrRd",
    ),
    ({"colormap": "tab10"}, "colormap: expected a continuous colour map of matplotlib"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_invalid_styles_are_refused(fields: dict[str, float], message: str) -> None:
    """A style with an invalid value is refused with the field, what is expected, and the value."""
    with pytest.raises(RequestError) as refused:
        HeatmapStyle(**fields)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--opacity", "2"], "--opacity: expected a number from 0 to 1, got 2.0"),
        (["--colormap", "jetz"], "--colormap: expected a continuous colour map of matplotlib, such as viridis,"),
        (["--heatmap-threshold", "nan"], "--heatmap-threshold: expected a finite number, got nan"),
        (["--heatmap-scale", "0"], "--heatmap-scale: expected a factor above 0 and at most 1, got 0.0"),
        (["--heatmap-scale", "0.5"], "--heatmap-scale: expected a .tif with it, got .png; leave the scale out"),
        (
            ["--overlay", "--heatmap", "out.JPG"],
            "--overlay: expected a format with transparency (.png, .webp or .tif), got .jpg; choose another format",
        ),
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    """Invalid options end with exit status 2 and one line that names the option, before anything is scored."""
    result = CliRunner().invoke(app, ["none.png", *MODEL, "--heatmap", str(tmp_path / "out.png"), *options])
    assert result.exit_code == 2, result.stderr
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["--heatmap-threshold", "0.5"],
        ["--colormap", "magma"],
        ["--opacity", "0.5"],
        ["--no-legend"],
        ["--overlay"],
        ["--heatmap-scale", "0.5"],
    ],
    ids=lambda options: str(options[0]),
)
def test_styles_need_a_heatmap(options: list[str]) -> None:
    """An option for the style of heatmaps without --heatmap ends with exit status 2."""
    result = CliRunner().invoke(app, ["none.png", *MODEL, *options])
    assert result.exit_code == 2
    assert f"{options[0]}: expected --heatmap with it, got none" in " ".join(result.stderr.split())


def test_answers_draw_the_same_heatmaps_as_the_command(tmp_path: Path) -> None:
    """`Answer.heatmap` and `Answer.save` take the style, and give the pixels of the command's files."""
    image = tmp_path / "image.png"
    image.write_bytes(png(noise(90, 120, 1)))
    options = ["--heatmap-class", "3", "--heatmap-threshold", "0.05", "--colormap", "Blues", "--opacity", "0.9"]
    run = [str(image), *MODEL, *options, "--overlay", "--heatmap", str(tmp_path / "a.png")]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 0, result.stderr
    answer = Scorer(ROOT / "models").score(image, model="digits", grid=True)
    style = HeatmapStyle(threshold=0.05, colormap="Blues", opacity=0.9, overlay=True)
    answer.save(tmp_path / "b.png", "3", style=style)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = answer.heatmap("3", style=style)
    assert picture.mode == "RGBA"
    assert picture.size == (120, 90)
    with pytest.raises(RequestError, match="overlay: expected a format with transparency"):
        answer.save(tmp_path / "c.jpeg", "3", style=style)
    assert not (tmp_path / "c.jpeg").exists()
