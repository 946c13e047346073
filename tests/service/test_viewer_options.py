"""The options of a score over HTTP: they mean the same as those of gRPC, and a mask comes before the file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support.paths import ROOT
from support.pictures import encode, noise, png
from support.rest import ask
from support.servers import Server, running
from support.viewer import BINARY, lines_of, path_of, score, unpacked

from fullconv import Client
from service.rest.shown_rows import NO_CLASS

MODELS = ROOT / "models"
PAGE = (MODELS / "digits" / "page.png").read_bytes()
RING = [[100, 100], [600, 100], [600, 500], [100, 500], [100, 100]]
AREAS: dict[str, Any] = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [RING]},
    "properties": {"name": "left"},
}


def drawn_mask() -> bytes:
    """Return a mask image of the page's size, with one rectangle."""
    mask = np.zeros((768, 1024, 1), np.uint8)
    mask[200:600, 300:900] = 255
    return png(mask)


MASKS = {"areas": json.dumps(AREAS).encode(), "image": drawn_mask()}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model with an HTTP port."""
    with running(MODELS, "--viewer", "127.0.0.1:0") as server:
        yield server


def check_same(lines: list[dict[str, Any]], server: Server, file: bytes = PAGE, **options: Any) -> None:
    """Check that lines have the averages of the same request by gRPC, and scores in the same cells."""
    with Client(server.address) as client:
        answer = client.score(file, model="digits", grid=True, **options)
    assert answer.grid is not None
    assert_array_equal(lines[-1]["summary"]["average"]["values"], answer.average)
    top, _ = unpacked([line["rows"] for line in lines if "rows" in line], answer.grid.shape[1])
    assert_array_equal(top != NO_CLASS, ~np.isnan(np.asarray(answer.grid)).all(axis=-1))
    assert [each["name"] for each in lines[-1]["summary"]["areas"]] == [each.name for each in answer.areas]


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({"region": "100, 50,400,300"}, {"roi": (100, 50, 400, 300)}),
        ({"scales": "1x,0.5x, 256"}, {"scales": ["1x", "0.5x", 256]}),
        ({"flip": "true"}, {"flip": True}),
        ({"mask": "otsu"}, {"mask": "otsu"}),
        (
            {"mask": "otsu", "region": "0,0,700,700", "flip": "true"},
            {"mask": "otsu", "roi": (0, 0, 700, 700), "flip": True},
        ),
    ],
    ids=["region", "scales", "flip", "otsu", "several"],
)
def test_options(server: Server, query: dict[str, Any], options: dict[str, Any]) -> None:
    """A score with an option has the averages of the same request by gRPC, and scores in the same cells."""
    check_same(lines_of(score(server, PAGE, **query)), server, **options)


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_before_the_file(server: Server, mask: str, tmp_path: Path) -> None:
    """The body begins with the mask, whichever parts it arrives in; areas have their averages."""
    path = tmp_path / ("mask.geojson" if mask == "areas" else "mask.png")
    path.write_bytes(MASKS[mask])
    size = len(MASKS[mask])
    body = MASKS[mask] + PAGE
    for parts in ([body], [body[: size // 2], body[size // 2 : size], body[size:]], [body[:-1], body[-1:]]):
        lines = lines_of(score(server, iter(parts), mask=mask, mask_bytes=size))
        check_same(lines, server, mask=path)


def test_micrometres_per_pixel(server: Server) -> None:
    """A file that states the size of its pixels can be scored at another size; the plan says both."""
    file = encode(noise(400, 500, 3), ".tif", xres=2000, yres=2000)
    lines = lines_of(score(server, file, mpp="1"))
    plan = lines[0]["plan"]
    assert (plan["image"]["microns_per_pixel_x"], plan["grid"]["scaled"]) == (0.5, {"height": 200, "width": 250})
    check_same(lines, server, file, mpp=1.0)


@pytest.mark.parametrize("query", [{}, {"mask": "otsu"}, {"region": "0,0,300,300"}], ids=str)
def test_the_plan_alone(server: Server, query: dict[str, Any]) -> None:
    """With plan_only the answer is one line, the plan of the same request by gRPC, and nothing is scored."""
    (line,) = lines_of(score(server, PAGE, plan_only="true", **query))
    options: dict[str, Any] = {"mask": "otsu"} if "mask" in query else {"roi": (0, 0, 300, 300)} if query else {}
    with Client(server.address) as client:
        planned = client.plan(PAGE, model="digits", grid=True, **options)
    assert line["plan"]["plan"]["multiply_adds"] == planned.plan.multiply_adds
    assert line["plan"]["scored_cells"] > 0
    assert line["plan"]["average"]["values"] == []


def test_geojson_that_is_no_areas(server: Server) -> None:
    """A mask that is GeoJSON of lines is refused with the way out."""
    mask = json.dumps({"type": "LineString", "coordinates": RING}).encode()
    reply = ask(server, path_of(mask="areas", mask_bytes=len(mask)), mask + PAGE, BINARY)
    assert (reply.status, reply.document["reason"]) == (400, "IMAGE_INVALID")
    assert reply.document["error"].endswith("got 'LineString'; export areas, not lines or points")
