"""The parts of a heatmap: the shown classes, cells, layout, labels, and the background."""

import os
from pathlib import Path

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from support.heatmaps import axis, header, make_shown
from support.pictures import encode, noise

from fullconv.blocks import blocks_of
from fullconv.common.probabilities import probability
from fullconv.errors import RequestError
from fullconv.grid import ImageInfo
from fullconv.heatmap import Heatmap
from fullconv.heatmap.backdrop import grey_picture
from fullconv.heatmap.cells import SingleClass, Winners
from fullconv.heatmap.labels import LabelledRegion, place_labels
from fullconv.heatmap.layout import LONGEST, SHORTEST, Box, layout_of
from fullconv.heatmap.outlines import outlines
from fullconv.images import Region, ScoredPixels, source_of

WHOLE = ImageInfo("", 0, 0)


@pytest.mark.parametrize(
    ("labels", "classes", "named", "single"),
    [
        (["a"], (), None, 0),
        (["no", "yes"], (), None, 1),
        (["no", "yes"], ("no",), None, 0),
        (["no", "yes"], ("yes", "no"), None, 1),
        (["no", "yes"], ("yes",), "no", 0),
        (["a", "b", "c"], (), None, None),
        (["a", "b", "c"], ("a", "b"), None, None),
        (["a", "b", "c"], ("b", "1", "b"), None, 1),
        (["a", "b", "c"], ("a", "b"), "2", 2),
        (["2", "b", "c"], (), "2", 0),
    ],
)
def test_which_class_is_shown(
    labels: list[str], classes: tuple[str, ...], named: str | None, single: int | None
) -> None:
    """A heatmap shows the named class, the only class, the second of two, or the winners; labels precede indices."""
    assert make_shown(labels, single=named, classes=classes).single == single


@pytest.mark.parametrize(("classes", "named", "field"), [(("d",), None, "classes"), ((), "d", "heatmap-class")])
def test_unknown_classes_are_refused(classes: tuple[str, ...], named: str | None, field: str) -> None:
    """An unknown class is refused with the option, the known classes and the given name."""
    with pytest.raises(RequestError, match=f"{field}: expected labels of model 'm' or 0 to 2, got 'd'"):
        make_shown(["a", "b", "c"], single=named, classes=classes)


@pytest.mark.parametrize(
    ("kind", "classes", "named", "average", "needs"),
    [
        ("logits-softmax", (), None, "scores", False),
        ("logits-softmax", ("a",), None, "scores", True),
        ("logits-softmax", ("a", "b"), None, "scores", False),
        ("logits-softmax", ("a", "b"), None, "probabilities", True),
        ("logits-softmax", ("c", "b", "a"), None, "probabilities", False),
        ("logits-sigmoid", ("a",), None, "scores", False),
        ("logits-sigmoid", ("a",), "b", "scores", True),
        ("probabilities", ("a", "b"), None, "probabilities", False),
        ("raw", ("a",), None, "scores", False),
    ],
)
def test_all_classes_are_requested_only_if_needed(
    kind: str, classes: tuple[str, ...], named: str | None, average: str, *, needs: bool
) -> None:
    """The scores of all classes are requested for softmax, and for a class that the answer does not have."""
    assert make_shown(["a", "b", "c"], kind, single=named, average=average, classes=classes).needs_all is needs


@pytest.mark.parametrize("kind", ["logits-softmax", "logits-sigmoid", "probabilities", "raw"])
def test_probabilities(kind: str) -> None:
    """Probabilities in float32 agree with softmax and sigmoid in float64, also for large scores."""
    scores = np.random.default_rng(0).normal(0, 200, (4, 5, 6)).astype(np.float32)
    exact = scores.astype(np.float64)
    match kind:
        case "logits-softmax":
            powers = np.exp(exact - exact.max(-1, keepdims=True))
            exact = powers / powers.sum(-1, keepdims=True)
        case "logits-sigmoid":
            exact = 0.5 * (1 + np.tanh(exact / 2))
    assert_allclose(probability(scores, 2, kind), exact[..., 2], rtol=1e-5, atol=1e-7)
    winners = scores.argmax(-1)
    assert_allclose(probability(scores, winners, kind), exact.max(-1), rtol=1e-5, atol=1e-7)


def test_blocks_hold_the_cells_around_their_centres() -> None:
    """Each pixel belongs to the window with the nearest centre; a flush row begins where the lattice ends."""
    rows, cols = blocks_of(axis(4, last=26), 1.0), blocks_of(axis(3, 5, 25), 1.0)
    assert_array_equal([0, 10, 20, 30, 36], rows.edges)
    assert_array_equal([5, 15, 25, 35], cols.edges)
    assert_array_equal([-1, 0, 0, 1, 2, -1], cols.at(np.array([4.9, 5, 14, 15, 34, 35.0])))


def test_blocks_of_scaled_images_lie_in_the_image() -> None:
    """Strides of less than a pixel, as enlarged images have, are not rounded."""
    assert_allclose(blocks_of(axis(9, scale=3 / 90), 400).edges, np.linspace(0, 3, 10), rtol=1e-12)


@pytest.mark.parametrize("band", [1, 3, 7, 50])
def test_no_high_cell_is_lost_where_cells_share_a_pixel(band: int) -> None:
    """A block shows the highest of its cells and counts all of them, however the rows are divided."""
    scores = np.random.default_rng(0).random((50, 101, 2)).astype(np.float32) * 0.4
    scores[33, 77, 1], scores[2, 100, 1] = 0.9, 0.8
    scores[40:, :20] = np.nan
    cells = SingleClass(blocks_of(axis(50), 0.03), blocks_of(axis(101), 0.03), 1, "probabilities")
    winners = Winners(cells.rows_of, cells.cols_of, [0, 1], None)
    for first in range(0, 50, band):
        for one in (cells, winners):
            one.add_rows(first, scores[first : first + band])
    assert cells.rows_of.step == 4
    assert cells.value.shape == (13, 26)
    padded = np.pad(scores[..., 1], ((0, 2), (0, 3)), constant_values=np.nan).reshape(13, 4, 26, 4)
    assert_array_equal(np.fmax.reduce(np.fmax.reduce(padded, axis=3), axis=1), cells.value)
    assert (cells.scored, cells.present) == (50 * 101 - 200, 2)
    assert_array_equal(np.where(np.isnan(scores[::4, ::4, 0]), -1, scores[::4, ::4].argmax(-1)), winners.winner)
    assert winners.counts.sum() == cells.scored


@settings(deadline=None)
@given(width=st.integers(1, 200_000), height=st.integers(1, 200_000), labels=st.booleans())
def test_layouts(width: int, height: int, *, labels: bool) -> None:
    """A layout has at most 4096 pixels, enlarges small images, keeps its parts apart, and its letters large enough."""
    layout = layout_of(width, height, labels=labels)
    assert SHORTEST <= max(layout.size) <= LONGEST
    assert max(layout.size) >= min(LONGEST, max(width, height)) - 2
    assert not layout.image.overlaps(layout.panel)
    assert layout.labels.holds(layout.image)
    assert not layout.labels.overlaps(layout.panel)
    assert layout.unit >= max(layout.size) / 18.2
    longer = max(layout.image.width, layout.image.height)
    for drawn, asked in ((layout.image.width, width), (layout.image.height, height)):
        assert_allclose(drawn, max(1, asked * longer / max(width, height)), atol=1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 900)] * 2, *[st.integers(1, 200)] * 4), max_size=80))
def test_labels_cover_no_label(rectangles: list[tuple[int, ...]]) -> None:
    """Labels lie in the picture, beside the region that they name, and do not overlap."""
    image = Box(0, 0, 1000, 1000)
    regions = [LabelledRegion(Box(x, y, x + w, y + h), text, high, 3) for x, y, w, h, text, high in rectangles]
    found = place_labels(regions, image, image)
    boxes = list(found.items())
    for number, (position, box) in enumerate(boxes):
        assert image.holds(box)
        assert not any(box.overlaps(other) for _, other in boxes[:number])
        around = regions[position].box
        near = Box(around.left - 203, around.top - 203, around.right + 203, around.bottom + 203)
        assert near.holds(box) or box.overlaps(near)
    roomy = [region for region in regions if region.box.area > 200 * 200]
    assert not roomy or found


def test_labels_of_strips_lie_beside_them() -> None:
    """A label that is higher than a strip lies in the margin of the strip."""
    image, room = Box(0, 50, 4000, 80), Box(0, 0, 4000, 130)
    regions = [LabelledRegion(Box(left, 55, left + 30, 75), 600, 40, 3) for left in (500, 550)]
    found = place_labels(regions, image, room)
    assert len(found) == 2
    assert not any(box.overlaps(image) for box in found.values())


def test_outlines_surround_regions_and_holes() -> None:
    """Outlines follow the edges of blocks, distinguish holes from regions, and leave out small regions."""
    blocks = blocks_of(axis(20), 1.0)
    mask = np.zeros((20, 20), bool)
    mask[3:15, 2:15] = True
    mask[6:10, 6:10] = False
    mask[18, 18] = True
    found = [
        (line.min(axis=0).tolist(), line.max(axis=0).tolist(), region)
        for line, region in outlines(mask, blocks, blocks, 110)
    ]
    assert found == [([20, 30], [150, 150], True), ([60, 60], [100, 100], False)]


def turned(pixels: np.ndarray) -> bytes:
    """A JPEG file of the pixels that is stored rotated by 90°, with the EXIF orientation that rotates it back."""
    image = pyvips.Image.new_from_array(np.rot90(pixels).copy()).copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    return bytes(image.write_to_buffer(".jpg", Q=95))


@pytest.mark.parametrize("kind", ["png", "npy", "turned", "tif"])
def test_backdrops(tmp_path: Path, kind: str) -> None:
    """The background is the image or a region of it, in grey, at the requested size, for every format."""
    pixels = np.arange(200, dtype=np.uint8)[None].repeat(120, 0)
    path = tmp_path / f"image.{kind}"
    if kind == "npy":
        np.save(path, np.stack([pixels] * 3, -1))
    else:
        path.write_bytes(turned(pixels) if kind == "turned" else encode(pixels, f".{kind}"))
    whole = grey_picture(ScoredPixels(source_of(path)), WHOLE, (400, 240)).numpy()
    assert_allclose(whole[:, 8:-8], (np.arange(8, 392) / 2)[None].repeat(240, 0), atol=2)
    part = grey_picture(ScoredPixels(source_of(path), Region(50, 20, 100, 50)), WHOLE, (100, 50)).numpy()
    assert_allclose(part, np.arange(50, 150)[None].repeat(50, 0), atol=2)


def test_backdrops_of_other_widths_are_stretched(tmp_path: Path) -> None:
    """The background of 16-bit values that use a part of their range is stretched from black to white."""
    path = tmp_path / "image.tif"
    path.write_bytes(encode((noise(60, 80, 1)[..., 0].astype(np.uint16) * 20), ".tif"))
    grey = grey_picture(ScoredPixels(source_of(path)), WHOLE, (160, 120)).numpy()
    assert grey.shape == (120, 160)
    assert grey.std() > 40


@pytest.mark.parametrize("name", ["none.png", "text.png", "folder", "pipe"])
def test_backdrops_of_unreadable_images_are_white(tmp_path: Path, name: str) -> None:
    """If the image cannot be read again, the heatmap is drawn over white and states the reason."""
    path = tmp_path / name
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder").mkdir()
    if name == "pipe":
        os.mkfifo(path)
    grid = header(axis(1), axis(1), ["a"])
    heatmap = Heatmap(grid, make_shown(["a"], "probabilities"), ScoredPixels(source_of(path)))
    heatmap.add_rows(0, np.zeros((1, 1, 1), np.float32))
    assert_array_equal(heatmap.picture[:1100, :1100], 255)
    assert heatmap.unread.startswith(f"{name}: cannot be read again")
