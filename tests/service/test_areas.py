"""Masks of areas: polygons in GeoJSON select windows, and windows in named areas are averaged."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import running
from typer.testing import CliRunner

from fullconv import Answer, Client, ImageError, Scorer
from fullconv.command.cli import app
from fullconv.protos import scoring_pb2
from service import decode
from service.images import areas

MODELS = ROOT / "models"
PIXELS = noise(260, 330, 1)
RING: list[list[float]] = [[20, 10], [250, 40], [300, 200], [90, 240], [20, 10]]
HOLE: list[list[float]] = [[150, 90], [180, 90], [180, 120], [150, 120], [150, 90]]
LEFT: list[list[float]] = [[0, 100], [160, 100], [160, 260], [0, 260], [0, 100]]
RIGHT: list[list[float]] = [[160, 100], [330, 100], [330, 260], [160, 260], [160, 100]]
FAR: list[list[float]] = [[1000, 1000], [1100, 1000], [1100, 1100], [1000, 1000]]


def feature(*rings: list[list[float]], **properties: Any) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **properties}}


def collection(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def scored(**options: Any) -> Answer:
    return Scorer(MODELS).score(PIXELS, model="digits", grid=True, **options)


def inside(answer: Answer, shape: Any) -> np.ndarray:  # noqa: ANN401 (of shapely)
    """Return which windows lie in a shape, (rows, cols)."""
    x, y, width, height = np.moveaxis(answer.boxes, -1, 0)
    return np.asarray(shapely.covers(shape, shapely.box(x, y, x + width, y + height)))


@pytest.mark.parametrize("options", [{}, {"scales": ["1.3x"]}, {"border": "anchor", "flip": True}, {"stride": 16}])
def test_windows_in_a_polygon_are_scored(options: dict[str, Any]) -> None:
    """Exactly the windows that lie wholly inside are scored; a window over a hole, or over the outline, is not."""
    shape = shapely.Polygon(RING, [HOLE])
    whole, masked = scored(**options), scored(mask=collection(feature(RING, HOLE)), **options)
    wanted = inside(whole, shape)
    assert whole.grid is not None
    assert masked.grid is not None
    assert 0 < wanted.sum() < wanted.size
    np.testing.assert_array_equal(~np.isnan(masked.grid[..., 0]), wanted)
    np.testing.assert_allclose(masked.grid[wanted], whole.grid[wanted], rtol=1e-5, atol=1e-5)
    assert masked.scored == wanted.sum()
    assert masked.areas == ()


def test_named_areas_have_averages() -> None:
    """Polygons of a name are one area; a window across two areas counts in the mask, and in neither of them."""
    mask = collection(
        feature(LEFT, name="left"), feature(RIGHT, classification={"name": "right"}), feature(FAR, name="far")
    )
    for of in ("scores", "probabilities"):
        whole, masked = scored(average=of), scored(mask=mask, average=of)
        assert whole.grid is not None
        values = whole.grid.astype(np.float64)
        if of == "probabilities":
            values = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
        left, right, far = masked.areas
        assert [area.name for area in masked.areas] == ["left", "right", "far"]
        for area, ring in ((left, LEFT), (right, RIGHT)):
            wanted = inside(whole, shapely.Polygon(ring))
            assert area.windows == wanted.sum() > 0
            np.testing.assert_allclose(area.average, values[wanted].mean(0), rtol=1e-4, atol=1e-5)
            assert area.top[0].score == area.average.max()
        assert (far.windows, far.average.size, far.top) == (0, 0, ())
        assert masked.scored > left.windows + right.windows


def test_views_and_classes_of_areas() -> None:
    """An area's averages are over the views, and only of the requested classes."""
    mask = collection(feature(LEFT, name="left"))
    views = [scored(mask=mask, scales=[scale]).areas[0] for scale in ("1x", "1.3x")]
    both = scored(mask=mask, scales=["1x", "1.3x"], classes=["3", "1"]).areas[0]
    expected = np.mean([view.average for view in views], axis=0)[[3, 1]]
    np.testing.assert_allclose(both.average, expected, rtol=1e-6)
    assert both.windows == views[0].windows
    assert {entry.label for entry in both.top} == {"1", "3"}


def test_many_areas_cost_more() -> None:
    """The plan counts the time and the memory of testing each window for each area."""
    one, many = (
        Scorer(MODELS).plan(PIXELS, model="digits", mask=collection(*features))
        for features in ([feature(LEFT)], [feature(LEFT, name=str(number)) for number in range(200)])
    )
    cells = math.prod(one.plan.views[0].cells)
    assert many.plan.bytes - one.plan.bytes >= 200 * cells
    assert many.plan.decode_seconds - one.plan.decode_seconds == pytest.approx(200 * cells * 2e-7, rel=0.1)


FORMS = {
    "feature": feature(RING),
    "geometry": {"type": "Polygon", "coordinates": [RING]},
    "list of features": [feature(RING)],
    "multi": {"type": "MultiPolygon", "coordinates": [[RING]]},
    "collection of geometries": {
        "type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [RING]}],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_geojson(tmp_path: Path, form: str) -> None:
    """Every form that holds polygons selects the same windows."""
    (tmp_path / "areas.geojson").write_text(json.dumps(FORMS[form]))
    answer = scored(mask=tmp_path / "areas.geojson")
    assert answer.scored == scored(mask=shapely.Polygon(RING)).scored > 0


def test_a_server_and_the_command_agree(tmp_path: Path) -> None:
    """The file is sent with the request; the document and the table name the areas."""
    (tmp_path / "page.png").write_bytes(png(PIXELS[..., 0]))
    (tmp_path / "page.geojson").write_text(json.dumps(collection(feature(LEFT, name="links ä"))), "utf-8")
    own = scored(mask=tmp_path / "page.geojson")
    with running(MODELS) as server, Client(server.address) as client:
        sent = client.score(PIXELS, model="digits", grid=True, mask=tmp_path / "page.geojson")
        with client.score_large(tmp_path / "page.png", model="digits", mask=tmp_path / "page.geojson") as stream:
            large = stream.result()
    for answer in (sent, large):
        np.testing.assert_array_equal(answer.areas[0].average, own.areas[0].average)
    arguments = [str(tmp_path / "page.png"), "--model", "digits", "--models", str(MODELS), "--mask"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "{stem}.geojson"), "--json"])
    area = json.loads(result.output)["areas"][0]
    assert (area["name"], area["windows"]) == ("links ä", own.areas[0].windows)
    assert area["top"][0]["label"] == own.areas[0].top[0].label
    assert "links ä" in CliRunner().invoke(app, [*arguments, str(tmp_path / "{stem}.geojson")]).output


CROSSING: list[list[float]] = [[10, 10], [200, 200], [200, 10], [10, 200], [10, 10]]
REFUSED: list[tuple[Any, str]] = [
    (feature(CROSSING, name="bow"), r"mask: polygon 1 \('bow'\): expected an outline that does not cross itself"),
    (feature(FAR), r"expected areas inside the image of 330×260 \(width×height\), got x from 1000 to 1100"),
    (collection(), "mask: expected polygons, got none"),
    (feature(RING[:-1]), "expected an outline that ends where it begins, got an open line"),
    (feature(RING[:2] + RING[:1]), "expected at least 4 points in an outline, got 3"),
    (feature([[0, 0], [1e12, 0], [5, 5], [0, 0]]), "expected coordinates in pixels"),
    (feature([[0, 0], [float("nan"), 0], [5, 5], [0, 0]]), "expected coordinates in pixels"),
    (feature(), "mask: polygon 1: expected an outline, got none"),
    (collection(feature(RING), {"type": "Feature", "geometry": {"type": "LineString", "coordinates": RING}}),
     "mask: feature 2: expected a Polygon or a MultiPolygon, got 'LineString'; export areas"),
    ({"type": "Polygon", "coordinates": [[["a", "b"]]]}, "coordinates: expected rings of points"),
    ({"type": "Polygon"}, "coordinates: expected a list, got NoneType"),
    ({"type": "FeatureCollection", "features": [[feature(RING)]]}, "feature 1: expected an object, got a list"),
    ({"type": "Feature", "geometry": None}, "expected a Polygon or a MultiPolygon, got no type"),
    (feature([[0, 0], [5, 0], [5, 5], [0, 0]]), "mask: expected at least one window to score, got none"),
]  # fmt: skip


@pytest.mark.parametrize(("mask", "expected"), REFUSED)
def test_refused_areas(mask: Any, expected: str) -> None:  # noqa: ANN401
    """The error says which polygon, what was expected, and what it is."""
    with pytest.raises(ImageError, match=expected):
        scored(mask=mask)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"7"])
def test_files_that_are_no_geojson(tmp_path: Path, content: bytes) -> None:
    """A damaged file is one line that names it, and exit status 3."""
    (tmp_path / "page.png").write_bytes(png(PIXELS[..., 0]))
    (tmp_path / "areas.geojson").write_bytes(content)
    arguments = ["--model", "digits", "--models", str(MODELS), "--mask", str(tmp_path / "areas.geojson")]
    result = CliRunner().invoke(app, [str(tmp_path / "page.png"), *arguments])
    assert result.exit_code == 3
    assert result.output.count("\n") == 1
    assert "mask: " in result.output
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        scored(mask=tmp_path / "none.geojson")


LIMITS = {
    "MAX_POLYGONS": "polygons", "MAX_POINTS": "points of polygons", "MAX_NAMED": "names of areas",
    "MAX_PAIRS": "pairs of lines that lie close together",
}  # fmt: skip


@pytest.mark.parametrize(("limit", "what"), LIMITS.items())
def test_limits(monkeypatch: pytest.MonkeyPatch, limit: str, what: str) -> None:
    """More polygons, points or names than a request may have are refused before they are joined."""
    monkeypatch.setattr(areas, limit, 1)
    with pytest.raises(ImageError, match=f"expected at most 1 {what}"):
        scored(mask=collection(feature(LEFT, name="a"), feature(RIGHT, name="b")))


def test_messages_of_other_clients() -> None:
    """A message may say what this library never sends."""
    request = scoring_pb2.ScoreRequest(model="digits")
    request.options.mask_areas.polygons.add().rings.add(coordinates=[1, 2, 3])
    with pytest.raises(Exception, match="mask_areas: expected x and y for each point, got 3 coordinates"):
        decode.scoring_request(request)
