"""The options of the viewer in a browser: region, mask, scales and mirrored image, and the plan before the score."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from numpy.testing import assert_allclose
from support.browsers import choose, opened, serious, wait_for_state
from support.paths import ROOT
from support.pictures import encode, noise
from support.servers import Server

from fullconv import Answer, Client

pytestmark = pytest.mark.browser

DIGITS = ROOT / "models" / "digits" / "page.png"
Open = Callable[..., Any]
WIDTHS = pytest.mark.parametrize("width", [1280, 360], ids=["wide", "narrow"])
RING = [[100, 100], [600, 100], [600, 500], [100, 500], [100, 100]]
AREA = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [RING]}, "properties": {"name": "<b>left"}}


def with_options(new_page: Open, server: Server, width: int = 1280, **options: object) -> Any:  # noqa: ANN401
    """Open the viewer with the shipped page chosen and all options shown."""
    page = opened(new_page, server, width, **options)
    choose(page, "page.png", DIGITS.read_bytes())
    page.locator("#preview").wait_for()
    page.locator("summary").click()
    return page


def scored(page: Any) -> list[list[str]]:  # noqa: ANN401
    """Score, and return the lines of the averages."""
    page.click("#score")
    wait_for_state(page, "Done")
    return [text.split("\n") for text in page.locator("#averages li").all_inner_texts()]


def expected(server: Server, **options: Any) -> Answer:
    """Return the answer of gRPC."""
    with Client(server.address) as client:
        return client.score(DIGITS, model="digits", **options)


def averages(answer: Answer) -> list[list[str]]:
    """Return the averages as the page shows them."""
    return [[each.label, f"{each.score:.4f}"] for each in answer.top]


@WIDTHS
def test_a_region_is_drawn(server: Server, width: int, new_page: Open) -> None:
    """The mouse draws the region on the preview, whichever way it moves, at most to its edges."""
    page = with_options(new_page, server, width)
    page.locator("#preview").scroll_into_view_if_needed()
    box = page.locator("#preview").bounding_box()

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        for step, (x, y) in enumerate((start, end)):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            page.mouse.down() if step == 0 else page.mouse.up()

    drag((0.75, 0.75), (0.25, 0.25))
    x, y, across, down = map(int, page.input_value("#region").split(","))
    assert_allclose([x, y, across, down], [256, 192, 512, 384], atol=8)
    shown = page.locator("#region-box").bounding_box()
    assert_allclose(shown["width"], box["width"] / 2, atol=4)
    assert scored(page) == averages(expected(server, roi=(x, y, across, down)))
    page.locator("#preview").scroll_into_view_if_needed()
    box = page.locator("#preview").bounding_box()
    drag((0.5, 0.5), (1.5, 1.5))
    assert page.input_value("#region") == "512, 384, 512, 384"


def test_a_click_removes_the_region(server: Server, new_page: Open) -> None:
    """A region that was typed is shown, and a click on the preview removes it."""
    page = with_options(new_page, server)
    page.fill("#region", "100, 50, 400, 300")
    assert page.locator("#region-box").is_visible()
    page.locator("#preview").click()
    assert page.input_value("#region") == ""
    assert page.locator("#region-box").is_hidden()


def test_regions_that_are_none(server: Server, new_page: Open) -> None:
    """The form is not sent with a region of three numbers."""
    page = with_options(new_page, server)
    page.fill("#region", "1, 2, 3")
    page.click("#score")
    assert page.locator("#region:invalid").count() == 1
    assert page.locator("#run").is_hidden()


def test_options_that_are_set(server: Server, new_page: Open) -> None:
    """Otsu's mask, scales and the mirrored image mean the same as by gRPC."""
    page = with_options(new_page, server)
    page.select_option("#mask", "otsu")
    page.fill("#scales", "1x, 0.5x")
    page.check("#flip")
    found = scored(page)
    assert found == averages(expected(server, mask="otsu", scales=["1x", "0.5x"], flip=True))
    plan = page.locator("#plan").inner_text()
    assert "1024 × 768, 512 × 384 pixels" in plan
    assert "those of the mirrored image included" in plan


def test_a_mask_from_a_file(server: Server, new_page: Open) -> None:
    """Areas of a GeoJSON file select the windows, and have averages of their own, with their names as text."""
    page = with_options(new_page, server)
    page.select_option("#mask", "file")
    page.click("#score")
    assert page.locator("#mask-file:invalid").count() == 1
    data = json.dumps(AREA).encode()
    page.set_input_files("#mask-file", {"name": "m.geojson", "mimeType": "application/json", "buffer": data})
    found = scored(page)
    answer = expected(server, mask=AREA)
    assert found == averages(answer)
    (area,) = answer.areas
    lines = page.locator("#areas").inner_text().split("\n")
    assert lines[0] == f"<b>left, {area.windows:,} windows"
    assert lines[1:3] == [area.top[0].label, f"{area.top[0].score:.4f}"]


def test_the_plan_comes_first(server: Server, new_page: Open) -> None:
    """A button shows the plan without a score: the windows inside the mask, the tiles and the cost."""
    page = with_options(new_page, server)
    page.select_option("#mask", "otsu")
    before = len(server.events("request"))
    page.click("#show-plan")
    wait_for_state(page, "Planned; nothing is scored yet.")
    with Client(server.address) as client:
        planned = client.plan(DIGITS, model="digits", grid=True, mask="otsu")
    plan = page.locator("#plan").inner_text()
    assert f"{planned.scored:,} inside the mask" in plan
    assert re.search(r"Cost\s.*multiply-adds", plan)
    assert page.locator("#result *").count() == 0
    assert all("queue_ms" not in each for each in server.events("request")[before:])
    assert scored(page) == averages(expected(server, mask="otsu"))


def test_micrometres_per_pixel(server: Server, new_page: Open) -> None:
    """The plan states the size of the pixels, and the size at which the image is scored."""
    page = with_options(new_page, server)
    choose(page, "slide.tif", encode(noise(400, 500, 3), ".tif", xres=2000, yres=2000))
    page.fill("#mpp", "1")
    page.click("#show-plan")
    wait_for_state(page, "Planned")
    plan = page.locator("#plan").inner_text()
    assert "500 × 400 pixels (width × height), 0.5 µm each" in plan
    assert "250 × 200 pixels" in plan


@pytest.mark.parametrize("scheme", ["light", "dark"])
@WIDTHS
def test_accessibility(server: Server, width: int, scheme: str, new_page: Open) -> None:
    """Axe finds nothing serious or critical while all options and a plan are shown."""
    page = with_options(new_page, server, width, color_scheme=scheme)
    page.select_option("#mask", "file")
    assert serious(page) == []
    page.select_option("#mask", "otsu")
    page.click("#show-plan")
    wait_for_state(page, "Planned")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
