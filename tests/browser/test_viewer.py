"""The viewer of a server in a browser: an image is dropped and scored, the scores appear, and can be cancelled."""

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image
from support.browsers import choose, opened, serious, url, wait_for_state
from support.conversion import convert_into
from support.heatmaps import axis, header
from support.networks import UNPADDED, make_network
from support.pages import write_page
from support.paths import ROOT
from support.pictures import encode, noise, png
from support.servers import Server, running, wait_until

from fullconv import Client
from fullconv.common.probabilities import probabilities
from fullconv.page import values

pytestmark = pytest.mark.browser

MODELS = ROOT / "models"
DIGITS = MODELS / "digits" / "page.png"
SECRET = "a token"  # noqa: S105 (of a test)
Open = Callable[..., Any]
WIDTHS = pytest.mark.parametrize("width", [1280, 360], ids=["wide", "narrow"])
DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    document.body.dispatchEvent(new DragEvent("dragover", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def regions(page: Any) -> str:  # noqa: ANN401
    """Return how many regions there are, after the list is complete."""
    page.wait_for_timeout(500)
    text: str = page.locator("#regions-count").inner_text()
    return text


@WIDTHS
def test_an_image_is_dropped_and_scored(server: Server, width: int, new_page: Open, tmp_path: Path) -> None:
    """The page shows the plan, the image, the scores and the averages of an image that is dropped on it."""
    page = opened(new_page, server, width)
    assert "At most 8 GiB; JPEG, PNG and WebP: at most 256 megapixels" in page.locator("#limits").inner_text()
    page.evaluate(DROP, ["page.png", b64encode(DIGITS.read_bytes()).decode()])
    page.locator("#preview").wait_for()
    page.fill("#stride", "16")
    page.select_option("#mode", "dense")
    page.click("#score")
    wait_for_state(page, "Done")
    with Client(server.address) as client:
        answer = client.score(DIGITS, model="digits", stride=16, mode="dense", grid=True)
        answer.save(tmp_path / "page.html")
    plan = page.locator("#plan").inner_text()
    assert f"dense: {answer.mode_reason}" in plan
    assert f"{len(answer.y)} × {len(answer.x)} (rows × columns) of 70 × 70 pixels, 16 pixels apart" in plan
    assert "multiply-adds" in plan
    averages = page.locator("#averages li").all_inner_texts()
    assert [text.split("\n") for text in averages] == [[each.label, f"{each.score:.4f}"] for each in answer.top]
    assert page.locator("#name").inner_text() == "page.png"
    expected = new_page(width)
    expected.goto((tmp_path / "page.html").as_uri())
    assert regions(page) == regions(expected)
    assert page.locator("#regions li").all_inner_texts() == expected.locator("#regions li").all_inner_texts()
    assert page.locator("#legend").inner_text() == expected.locator("#legend").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert_array_equal(drawn(page, "#layer"), drawn(expected, "#layer"))
    shown = [drawn(each, "#viewer canvas")[..., 0].astype(float) for each in (page, expected)]
    assert_allclose(np.abs(shown[0] - shown[1]).mean(), 0, atol=5)
    assert shown[0].std() > 10


def drawn(page: Any, selector: str) -> NDArray[np.uint8]:  # noqa: ANN401
    """Return the pixels of a canvas, (height, width, 4)."""
    address = page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(BytesIO(b64decode(address.partition(",")[2]))).convert("RGBA"))


def test_a_second_image(server: Server, new_page: Open) -> None:
    """A second image takes the place of the first, with controls that work."""
    page = opened(new_page, server)
    for height, expected in ((300, "29 × 42"), (200, "17 × 42")):
        choose(page, "noise.png", png(noise(height, 400, 1)))
        page.click("#score")
        wait_for_state(page, "Done")
        assert f"{expected} (rows × columns)" in page.locator("#about").inner_text()
    assert page.locator("#viewer .openseadragon-canvas").count() == 1
    page.select_option("#class", label="3")
    page.fill("#threshold", "0")
    assert regions(page) == "1 region of 714 cells at or above the threshold"


def test_rows_arrive_before_the_end(server: Server, new_page: Open) -> None:
    """While an image is scored, its plan, the progress and the first rows are shown; cancelling ends the work."""
    page = opened(new_page, server)
    choose(page, "large.png", png(noise(3000, 3000, 1)))
    page.select_option("#mode", "crops")
    before = len(server.events("request"))
    page.click("#score")
    page.locator("#state").filter(has_text="of 256 tiles").wait_for()
    assert "367 × 367 (rows × columns)" in page.locator("#plan").inner_text()
    assert page.locator("#averages-of").inner_text() == "They follow when all windows are scored."
    page.locator("#legend .number").first.wait_for(timeout=60_000)
    assert page.locator("#about").is_hidden()
    assert 0 < page.locator("#progress").evaluate("bar => bar.value / bar.max") < 1
    page.click("#cancel")
    wait_for_state(page, "Cancelled.")
    assert page.locator("#error").is_hidden()
    wait_until(lambda: any(each["code"] == "CANCELLED" for each in server.events("request")[before:]))
    choose(page, "small.png", png(noise(100, 100, 1)))
    page.click("#score")
    wait_for_state(page, "Done")


def test_files_that_the_browser_cannot_show(server: Server, new_page: Open) -> None:
    """A TIFF file is scored over a white background, and the page says so."""
    page = opened(new_page, server)
    choose(page, "noise.tif", encode(noise(300, 400, 1), ".tif"))
    page.click("#score")
    wait_for_state(page, "Done")
    assert "the background is white" in page.locator("#remarks").inner_text()
    assert page.locator("#preview").is_hidden()


@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_many_classes(activation: str, new_page: Open, tmp_path: Path) -> None:
    """Of a model of many classes, the chosen classes are shown beside the top class; scores have their own range."""
    network = make_network(tmp_path, UNPADDED.replace('"softmax"', f'"{activation}"'), classes=40)
    file = png(noise(200, 300, 3))
    with running(convert_into(tmp_path / "models", network), "--viewer", "127.0.0.1:0") as server:
        page = opened(new_page, server)
        page.select_option("#planes", ["7", "33"])
        choose(page, "noise.png", file)
        page.click("#score")
        wait_for_state(page, "Done")
        with Client(server.address) as client:
            answer = client.score(file, model="unpadded", grid=True)
    assert answer.grid is not None
    scores = np.asarray(answer.grid, np.float32)
    found = scores if activation == "none" else probabilities(scores, "logits-softmax")
    assert page.locator("#class option").all_inner_texts() == ["Top class of each cell", "7", "33"]
    page.select_option("#class", label="33")
    low, high = (float(page.locator(f"#{name}").inner_text()) for name in ("low", "high"))
    expected = (scores.min(), scores.max()) if activation == "none" else (0, 1)
    assert_allclose((low, high), expected, rtol=1e-3)
    threshold = float(np.median(found[..., 33]))
    page.locator("#threshold").evaluate("(slider, value) => { slider.step = 'any'; slider.value = value }", threshold)
    page.locator("#threshold").dispatch_event("input")
    match = re.search(r"of ([0-9,]+) cell", regions(page))
    assert match
    assert_allclose(int(match[1].replace(",", "")), (found[..., 33] >= threshold).sum(), rtol=0.01)


def test_turned_photographs(server: Server, new_page: Open) -> None:
    """The image is shown as it was scored, turned as its EXIF data say."""
    page = opened(new_page, server)
    image = Image.fromarray(noise(200, 300, 1)[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    image.save(file, "JPEG", exif=exif)
    choose(page, "turned.jpg", file.getvalue())
    page.click("#score")
    wait_for_state(page, "Done")
    assert "200 × 300 pixels" in page.locator("#summary").inner_text()
    assert page.locator("#remarks").is_hidden()


def test_errors_are_shown(server: Server, new_page: Open) -> None:
    """The page shows the one line of the server, as text, and the next image can be scored."""
    page = opened(new_page, server)
    tiff = encode(noise(900, 900, 1), ".tif", tile=True, compression="deflate")
    quarter = len(tiff) // 4
    choose(page, "<b>x.tif", tiff[:quarter] + bytes(quarter) + tiff[2 * quarter :])
    page.click("#score")
    page.locator("#error:not([hidden])").wait_for()
    assert page.locator("#error").inner_text().startswith("<b>x.tif: ")
    assert page.locator("#state").inner_text() == "Not finished."
    assert page.locator("#plan").is_visible()
    choose(page, "small.png", png(noise(100, 100, 1)))
    page.click("#score")
    wait_for_state(page, "Done")
    assert page.locator("#error").is_hidden()


def test_a_token(chromium: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """The page asks for a token, sends it with each request, and stores it nowhere."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"anna {hashlib.sha256(SECRET.encode()).hexdigest()}\n")
    with running(MODELS, "--viewer", "127.0.0.1:0", "--tokens", str(tokens)) as server:
        page = chromium.new_context().new_page()
        page.goto(url(server))
        page.locator("#access").wait_for()
        assert page.locator("#request").is_hidden()
        assert page.locator("#error").is_hidden()
        page.fill("#token", "wrong")
        page.get_by_role("button", name="Continue").click()
        page.locator("#error").filter(has_text="got an unknown token").wait_for()
        page.fill("#token", SECRET)
        page.get_by_role("button", name="Continue").click()
        page.locator("#mode option").first.wait_for(state="attached")
        assert page.locator("#access").is_hidden()
        choose(page, "small.png", png(noise(100, 100, 1)))
        page.click("#score")
        wait_for_state(page, "Done")
        stored = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])"
        assert json.loads(page.evaluate(stored)) == [{}, {}, ""]
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@WIDTHS
def test_accessibility(server: Server, width: int, scheme: str, new_page: Open) -> None:
    """Axe finds nothing serious or critical, before and after an image is scored."""
    page = opened(new_page, server, width, color_scheme=scheme)
    assert serious(page) == []
    choose(page, "page.png", DIGITS.read_bytes())
    page.click("#score")
    wait_for_state(page, "Done")
    page.wait_for_timeout(500)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("last", [None, 43], ids=["lattice", "anchor"])
def test_places_of_cells(
    step: int, last: int | None, server: Server, new_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells, or blocks of cells, are where the page of a result has them."""
    monkeypatch.setattr(values, "MAX_BYTES", 1000 if step == 1 else 4 * 2)
    along = replace(axis(5, origin=3, last=last, scale=1.3), window=25)
    known = header(along, along, ["a", "b"])
    document = write_page(tmp_path, np.zeros((5, 5, 2)), known=known).document["grid"]
    page = opened(new_page, server)
    assert document["step"] == step
    fields = {name: getattr(along, name) for name in ("count", "origin", "last", "stride", "window", "scale")}
    assert page.evaluate("([fields, step]) => axisOf(fields, step)", [fields, step]) == document["rows"]
