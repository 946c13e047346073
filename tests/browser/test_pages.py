"""Pages of results in a browser, opened from disk: what they show, and how the mouse and the keyboard operate them."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import label as connected
from support.browsers import serious
from support.pages import Page, read_page, write_page
from support.paths import ROOT
from support.pictures import noise, png

from fullconv import Answer, Scorer
from fullconv.images import ArraySource, FileSource, Region, ScoredPixels
from fullconv.page import tiles

pytestmark = pytest.mark.browser

DIGITS = ROOT / "models" / "digits" / "page.png"
Open = Callable[..., Any]
WIDTHS = pytest.mark.parametrize("width", [1280, 360], ids=["wide", "narrow"])
PIXEL = """([x, y]) => {
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    copy.drawImage(document.querySelector("#layer"), -x, -y);
    return [...copy.getImageData(0, 0, 1, 1).data];
}"""


@cache
def digits() -> Answer:
    """Return the answer of the shipped page."""
    return Scorer(ROOT / "models").score(DIGITS, model="digits", grid=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of the shipped page."""
    path = tmp_path_factory.mktemp("pages") / "a page #1?.html"
    digits().save(path)
    return path


def document(path: Path, scores: NDArray[np.float64], **options: Any) -> tuple[Path, Page]:
    """Write a page with a document that is complete."""
    answer = digits().document() | {"warnings": []} | options.pop("answer", {})
    return path / "page.html", write_page(path, scores, answer=answer, **options)


def position(page: Any, x: float, y: float, box: dict[str, int]) -> tuple[float, float]:  # noqa: ANN401
    """Return where the browser's window shows a pixel of an image that fits the viewer whole."""
    viewer = page.locator("#viewer").bounding_box()
    scale = min(viewer["width"] / box["width"], viewer["height"] / box["height"])
    left = viewer["x"] + (viewer["width"] - scale * box["width"]) / 2
    top = viewer["y"] + (viewer["height"] - scale * box["height"]) / 2
    return left + (x - box["x"]) * scale, top + (y - box["y"]) * scale


def wait_for_regions(page: Any, text: str) -> None:  # noqa: ANN401
    """Wait until the list of regions begins with a text."""
    page.locator("#regions-count").filter(has_text=re.compile(f"^{text}")).wait_for()


def shown_cell(page: Any) -> list[str]:  # noqa: ANN401
    """Return the lines that are shown of a cell."""
    return [line for line in page.locator("#cell").inner_text().split("\n") if line]


WHOLE = {"x": 0, "y": 0, "width": 1024, "height": 768}


def expected_regions(page: Page, name: str | int, threshold: float) -> tuple[int, int]:
    """Return the number of regions of a class at a threshold, and of their cells."""
    mask = page.values(name) >= threshold
    return int(connected(mask, connectivity=1).max()), int(mask.sum())


@WIDTHS
def test_facts(file: Path, width: int, open_page: Open) -> None:
    """The page names the image, the model, the mode and the windows, and needs no horizontal scrolling."""
    page = open_page(file, width)
    assert page.title() == "page.png – digits/1"
    assert page.locator("h1").inner_text() == "page.png"
    about = page.locator("#about").inner_text()
    for text in (
        "1024 × 768 pixels",
        "digits",
        "dense",
        "88 × 120 (rows × columns)",
        "dense scores are those of crops",
    ):
        assert text in about
    averages = page.locator("#averages li").all_inner_texts()
    assert [text.split("\n") for text in averages] == [[each.label, f"{each.score:.4f}"] for each in digits().top]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_averages_of_areas(tmp_path: Path, open_page: Open) -> None:
    """The page has the averages of each area of the mask."""
    area = {"name": "left <b>", "windows": 12, "top": [{"class": 1, "label": "b", "score": -0.25}]}
    path, _ = document(tmp_path, np.full((4, 6, 2), 0.4), answer={"areas": [area]})
    page = open_page(path)
    assert page.locator("#areas").inner_text().split() == ["left", "<b>,", "12", "windows", "b", "-0.2500"]


def test_the_image_is_drawn(file: Path, tmp_path: Path, open_page: Open) -> None:
    """The viewer shows the image where no cell is painted."""
    page = open_page(file)
    page.fill("#opacity", "0")
    page.wait_for_timeout(500)
    page.screenshot(path=tmp_path / "shot.png")
    shot, expected = np.array(Image.open(tmp_path / "shot.png").convert("L")), np.array(Image.open(DIGITS).convert("L"))
    for x, y in ((520, 390), (300, 700), (900, 60), (252, 408)):
        left, top = position(page, x, y, WHOLE)
        assert_allclose(float(shot[int(top), int(left)]), expected[y - 2 : y + 3, x - 2 : x + 3].mean(), atol=25)


def test_a_class_and_a_threshold(file: Path, open_page: Open) -> None:
    """The list has the regions of the chosen class at the threshold, the highest peak first, and follows both."""
    page, data = open_page(file), read_page(file)
    page.select_option("#class", label="3")
    for threshold in (0.5, 0.9, 0.05):
        page.fill("#threshold", str(threshold))
        regions, cells = expected_regions(data, 3, threshold)
        wait_for_regions(page, f"{regions} regions of {cells:,} cells")
        peaks = [float(text.split("\n")[1]) for text in page.locator("#regions li").all_inner_texts()]
        assert len(peaks) == min(regions, 50)
        assert peaks == sorted(peaks, reverse=True)
        assert_allclose(peaks[0], data.values(3).max(), atol=1e-3)


def test_nothing_above_the_threshold(tmp_path: Path, open_page: Open) -> None:
    """The list says so if no cell reaches the threshold."""
    path, _ = document(tmp_path, np.full((4, 6, 2), 0.4))
    page = open_page(path)
    assert page.locator("#regions-count").inner_text() == "No cell is at or above the threshold."
    assert page.locator("#regions li").count() == 0


def test_colours_of_cells(tmp_path: Path, open_page: Open) -> None:
    """A class is painted in the chosen colours and opacity, and cells below the threshold or not scored are clear."""
    scores = np.zeros((4, 6, 2))
    scores[..., 1] = np.linspace(0.45, 1, 24).reshape(4, 6)
    scores[3, 5] = np.nan
    path, data = document(tmp_path, scores)
    page = open_page(path)
    page.select_option("#map", "magma")
    page.fill("#opacity", "100")
    level = round(data.values(1)[2, 3] * 255)
    left, top = position(page, 35, 25, {"x": 0, "y": 0, "width": 60, "height": 40})
    viewer = page.locator("#viewer").bounding_box()
    colour = page.evaluate(PIXEL, [round(left - viewer["x"]), round(top - viewer["y"])])
    expected = page.evaluate(
        "level => [...atob(JSON.parse(document.querySelector('#data-document').textContent).colour_maps.magma)"
        ".slice(3 * level, 3 * level + 3)].map(letter => letter.charCodeAt(0))",
        level,
    )
    assert_allclose(colour, [*expected, 255], atol=2)
    for x, y in ((5, 5), (55, 35)):
        left, top = position(page, x, y, {"x": 0, "y": 0, "width": 60, "height": 40})
        assert page.evaluate(PIXEL, [round(left - viewer["x"]), round(top - viewer["y"])]) == [0, 0, 0, 0]


def test_the_most_common_class(tmp_path: Path, open_page: Open) -> None:
    """The most common top class is painted only if that is wanted."""
    scores = np.zeros((4, 6, 3))
    scores[..., 0], scores[1, 1, 2] = 0.6, 0.9
    path, _ = document(tmp_path, scores)
    page = open_page(path)
    assert page.locator("#regions-count").inner_text().startswith("1 region of 1 cell ")
    assert "not painted" in page.locator("#legend").inner_text()
    page.check("#common")
    wait_for_regions(page, "2 regions of 24 cells")


@pytest.mark.parametrize(("classes", "more"), [(12, ""), (13, "and 1 more"), (40, "and 28 more")])
def test_many_classes_in_the_legend(classes: int, more: str, tmp_path: Path, open_page: Open) -> None:
    """The legend has at most twelve classes, and says how many more there are."""
    path, _ = document(tmp_path, np.eye(classes)[None] * 0.9 + 0.01)
    page = open_page(path)
    assert page.locator("#legend li").count() == 12
    assert page.locator("#legend-more").inner_text() == more
    assert page.locator("#legend-more").is_visible() == bool(more)


def test_names_of_sliders(file: Path, open_page: Open) -> None:
    """The name of a slider for assistive technology is the same for every value."""
    page = open_page(file)
    for name, value in (("threshold", "0.25"), ("opacity", "40")):
        for _ in range(2):
            slider = page.get_by_role("slider", name=name.capitalize(), exact=True)
            assert slider.get_attribute("id") == name
            slider.fill(value)
    assert page.locator("#threshold-value").inner_text() == "0.250"
    assert page.locator("#opacity-value").inner_text() == "40 %"


@WIDTHS
def test_the_cell_under_the_mouse(file: Path, width: int, open_page: Open) -> None:
    """The box and the highest scores of a cell are shown while the mouse is over it."""
    page, data = open_page(file, width), read_page(file)
    row, col = np.unravel_index(data.values(3).argmax(), data.top.shape)
    x, y = int(8 * col + 35), int(8 * row + 35)
    page.mouse.move(*position(page, x, y, WHOLE))
    shown = shown_cell(page)
    assert shown[:3] == [f"x {8 * col}, y {8 * row}, 70 × 70 pixels", "3", f"{data.values(3).max():.3f}"]
    assert len(shown) == 1 + 2 * 5
    page.mouse.move(2, 2)
    assert page.locator("#cell").inner_text().startswith("Point at a cell")


def test_the_keyboard(file: Path, open_page: Open) -> None:
    """Arrow keys move the selected cell, which a live region reads, and other keys zoom and end the selection."""
    page = open_page(file)
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "application":
            break
    status = page.get_by_role("status").filter(has_text="x ").first

    def place() -> tuple[int, int]:
        match = re.match(r"x (\d+), y (\d+), 70 × 70 pixels", page.locator("#cell").inner_text())
        assert match
        return int(match[1]), int(match[2])

    page.keyboard.press("ArrowRight")
    x, y = place()
    assert "x " in status.inner_text()
    for keys, expected in (
        (["ArrowRight"], (x + 8, y)),
        (["ArrowDown", "ArrowDown"], (x + 8, y + 16)),
        (["Shift+ArrowLeft"], (x - 72, y + 16)),
        (["Shift+ArrowUp"] * 20, (x - 72, 0)),
    ):
        for key in keys:
            page.keyboard.press(key)
        assert place() == expected
    page.keyboard.press("Escape")
    assert page.locator("#cell").inner_text().startswith("Point at a cell")


def test_zoom_and_regions(file: Path, open_page: Open) -> None:
    """Buttons and keys zoom, and the button of a region shows it and selects its peak."""
    page, data = open_page(file, reduced_motion="reduce"), read_page(file)

    def cell_at_the_middle() -> str:
        box = page.locator("#viewer").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        text = shown_cell(page)[0]
        page.mouse.move(2, 2)
        return text

    before = cell_at_the_middle()
    page.get_by_role("button", name="Zoom in").click()
    assert cell_at_the_middle() == before
    page.select_option("#class", label="3")
    page.locator("#regions button").first.wait_for()
    page.wait_for_timeout(200)
    page.locator("#regions button").first.click()
    row, col = np.unravel_index(data.values(3).argmax(), data.top.shape)
    assert shown_cell(page)[:2] == [f"x {8 * col}, y {8 * row}, 70 × 70 pixels", "3"]
    match = re.match(r"x (\d+), y (\d+),", cell_at_the_middle())
    assert match
    assert abs(int(match[1]) - 8 * col) < 40
    assert abs(int(match[2]) - 8 * row) < 40
    page.get_by_role("button", name="Show the whole image").click()
    assert cell_at_the_middle() == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@WIDTHS
def test_accessibility(file: Path, width: int, scheme: str, open_page: Open) -> None:
    """Axe finds nothing serious or critical, in each view, at each width and in each colour scheme."""
    page = open_page(file, width, color_scheme=scheme)
    for cls in ("-1", "3"):
        page.select_option("#class", cls)
        page.wait_for_timeout(300)
        assert serious(page) == []


def test_hostile_text(tmp_path: Path, open_page: Open) -> None:
    """Labels and names are text, whatever they contain, and long ones do not widen the page."""
    evil = "</script><img src=x onerror=alert(1)><b>"
    labels = [evil, "日本語 العربية", "x" * 5000]
    answer = {
        "image": {"name": evil * 20, "width": 60, "height": 40},
        "model": "m" * 3000,
        "warnings": [evil, "w" * 5000],
        "average": {"of": "scores", "top": [{"class": 0, "label": name, "score": 1.0} for name in labels]},
    }
    scores = np.random.default_rng(1).random((4, 6, 3))
    path, _ = document(tmp_path, scores, labels=labels, answer=answer)
    page = open_page(path, 360)
    assert page.locator("img, b").count() == 0
    assert page.locator("#remarks li").first.inner_text() == evil
    assert page.locator("#averages li").first.inner_text().startswith(evil)
    page.select_option("#class", "0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_tiles_in_a_folder(tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles of a folder beside the page are shown, without a failed request."""
    monkeypatch.setattr(tiles, "INLINE_PIXELS", 100)
    pixels = np.zeros((1600, 2400, 3), np.uint8)
    pixels[:800, :1200, 0] = pixels[800:, 1200:, 2] = 255
    path, _ = document(tmp_path, np.full((160, 240, 2), 0.1), pixels=ScoredPixels(ArraySource(pixels)))
    page = open_page(path)
    page.wait_for_timeout(1000)
    page.screenshot(path=tmp_path / "shot.png")
    shot = np.array(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    for x, y, colour in ((600, 400, (255, 0, 0)), (1800, 400, (0, 0, 0)), (1800, 1200, (0, 0, 255))):
        left, top = position(page, x, y, {"x": 0, "y": 0, "width": 2400, "height": 1600})
        assert_allclose(shot[int(top), int(left)], colour, atol=8)


def test_a_region_of_an_image_that_cannot_be_read(tmp_path: Path, open_page: Open) -> None:
    """The background is white, the remark is among the warnings, and positions are those of the whole image."""
    source = FileSource(tmp_path / "gone.png")
    source.path.write_bytes(png(noise(40, 60, 3))[:100])
    path, _ = document(tmp_path, np.full((4, 6, 2), 0.1), pixels=ScoredPixels(source, Region(20, 10, 30, 20)))
    page = open_page(path)
    assert "gone.png: cannot be read again; the background is white" in page.locator("#remarks").inner_text()
    page.mouse.move(*position(page, 45, 25, {"x": 20, "y": 10, "width": 30, "height": 20}))
    assert page.locator("#cell").inner_text().startswith("x 40, y 20, 10 × 10 pixels")
    page.mouse.move(2, 2)
    page.wait_for_timeout(300)
    page.screenshot(path=tmp_path / "shot.png")
    left, top = position(page, 35, 20, {"x": 20, "y": 10, "width": 30, "height": 20})
    assert np.array(Image.open(tmp_path / "shot.png").convert("RGB"))[int(top), int(left)].tolist() == [255] * 3


def test_the_last_window_at_the_edge(tmp_path: Path, open_page: Open) -> None:
    """A last column of windows that is flush with the edge is drawn up to the edge, as in heatmaps."""
    from support.heatmaps import axis, header  # noqa: PLC0415 (only here)

    known = header(axis(3), axis(4, last=34), ["a", "b"])
    scores = np.zeros((3, 4, 2))
    scores[:, 3, 1] = 1
    path, _ = document(tmp_path, scores, known=known)
    page = open_page(path)
    viewer = page.locator("#viewer").bounding_box()
    for x, painted in ((15, False), (29, False), (31, True), (43, True)):
        left, top = position(page, x, 15, {"x": 0, "y": 0, "width": 44, "height": 30})
        alpha = page.evaluate(PIXEL, [round(left - viewer["x"]), round(top - viewer["y"])])[3]
        assert bool(alpha) == painted, x


def test_a_document_without_rows_of_averages(tmp_path: Path, open_page: Open) -> None:
    """Cells that were not scored say so, and averages that are no numbers do not stop the page."""
    scores = np.full((4, 6, 2), np.nan)
    answer = {"average": {"of": "scores", "top": [{"class": 0, "label": "a", "score": float("nan")}]}}
    path, _ = document(tmp_path, scores, answer=answer)
    page = open_page(path)
    page.mouse.move(*position(page, 45, 25, {"x": 0, "y": 0, "width": 60, "height": 40}))
    assert shown_cell(page)[1] == "not scored"
    assert page.locator("#averages li").inner_text() == "a\nnone"
