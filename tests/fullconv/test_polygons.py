"""Polygons of neighbouring windows of one class, and coordinates of the image's coordinate system, in GeoJSON."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from support.paths import ROOT
from support.pictures import encode, noise
from typer.testing import CliRunner

from fullconv.command.cli import app
from fullconv.common.probabilities import RAW
from fullconv.grid import GridHeader, GridRows, ImageInfo, WindowAxis
from fullconv.grids import grid_file
from fullconv.grids.cells import CellValues

PAGE = ROOT / "models" / "digits" / "page.png"
SCALE, POINT, MATRIX, KEYS = 33550, 33922, 34264, 34735
SCALED = [(SCALE, "d", 3, (0.5, 0.25, 0.0), True), (POINT, "d", 6, (0, 0, 0, 500_000.3, 5_000_000.7, 0), True)]
"""Half a metre by a quarter of a metre, north up."""
TURNED = [(MATRIX, "d", 16, (0.3, 0.4, 0, 1000.1, 0.4, -0.3, 0, 2000.2, 0, 0, 0, 0, 0, 0, 0, 1), True)]
"""A scene that is not aligned with the axes of its coordinate system."""
DEGREES = [(SCALE, "d", 3, (9e-5, 9e-5, 0.0), True), (POINT, "d", 6, (0, 0, 0, 13.377, 52.516, 0), True)]
UTM, LONGITUDE = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), (1, 1, 0, 1, 2048, 0, 1, 4326)
UTM_POINTS, NO_CODE = (*UTM[:11], 2, *UTM[12:]), (*UTM[:-1], 32767)
SIZE = 6
"""Rows and columns of random maps of classes."""


def score(image: Path, *arguments: object, status: int = 0) -> str:
    """Run the command with the shipped model; returns its output."""
    words = [image, *arguments, "--models", ROOT / "models", "--model", "digits"]
    result = CliRunner().invoke(app, [str(each) for each in words])
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


def scene(path: Path, tags: list[Any], keys: tuple[int, ...]) -> Path:
    """Write a GeoTIFF of 300×420 grey pixels."""
    extra = [*tags, (KEYS, "H", len(keys), keys, True)]
    tifffile.imwrite(path, noise(300, 420, 1)[..., 0], photometric="minisblack", metadata=None, extratags=extra)
    return path


def read(path: Path) -> dict[str, Any]:
    """Return a .geojson file."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def rings_of(path: Path) -> list[list[NDArray[np.float64]]]:
    """Return the rings of each polygon, (points, 2)."""
    features = read(path)["features"]
    return [[np.array(ring) for ring in feature["geometry"]["coordinates"]] for feature in features]


def area(ring: NDArray[np.float64]) -> float:
    """Return the area in a ring, above 0 if it runs counter-clockwise."""
    x, y = (ring - ring[0]).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


@pytest.mark.parametrize("keys", [UTM, UTM_POINTS], ids=["corner", "centre"])
@pytest.mark.parametrize("tags", [SCALED, TURNED], ids=["scale and point", "transformation"])
def test_coordinates_on_a_map(tags: list[Any], keys: tuple[int, ...], tmp_path: Path) -> None:
    """With --coordinates map, corners lie where the transformation of the image puts the pixels' corners."""
    image = scene(tmp_path / "scene.tif", tags, keys)
    score(image, "--grid", tmp_path / "pixels.geojson")
    score(image, "--grid", tmp_path / "map.geojson", "--coordinates", "map")
    assert "crs" not in read(tmp_path / "pixels.geojson")
    assert read(tmp_path / "map.geojson")["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    matrix = np.array([[0.5, 0], [0, -0.25]]) if tags is SCALED else np.array([[0.3, 0.4], [0.4, -0.3]])
    origin = np.array([500_000.3, 5_000_000.7] if tags is SCALED else [1000.1, 2000.2])
    shift = 0.5 if keys is UTM_POINTS else 0.0
    for (pixels,), (placed,) in zip(
        rings_of(tmp_path / "pixels.geojson"), rings_of(tmp_path / "map.geojson"), strict=True
    ):
        expected = (pixels - shift) @ matrix.T + origin
        assert_allclose(placed, expected[::-1], rtol=0, atol=2.5e-7)  # a millionth of a pixel
        assert area(pixels) > 0
        assert area(placed) > 0


def test_longitude_before_latitude(tmp_path: Path) -> None:
    """Degrees of WGS 84 are named as GDAL names them, with the longitude first."""
    score(scene(tmp_path / "a.tif", DEGREES, LONGITUDE), "--grid", tmp_path / "a.geojson", "--coordinates", "map")
    assert read(tmp_path / "a.geojson")["crs"]["properties"]["name"] == "urn:ogc:def:crs:OGC:1.3:CRS84"
    first = rings_of(tmp_path / "a.geojson")[0][0]
    assert_allclose(first.min(0), [13.377 + 31 * 9e-5, 52.516 - 39 * 9e-5], rtol=0, atol=9e-11)


def test_images_that_are_not_on_a_map(tmp_path: Path) -> None:
    """Images without a georeference, or without a code of EPSG, are refused with status 3; other images are scored."""
    plain, known = tmp_path / "plain.png", scene(tmp_path / "known.tif", SCALED, UTM)
    plain.write_bytes(encode(noise(105, 130, 1), ".png"))
    unknown = scene(tmp_path / "unknown.tif", SCALED, NO_CODE)
    options = ("--coordinates", "map", "--grid", tmp_path / "{stem}.geojson")
    printed = score(plain, unknown, known, *options, status=3)
    for name in ("plain.png", "unknown.tif"):
        assert f"{name}: coordinates: expected a GeoTIFF with an EPSG code and one transformation for 'map'" in printed
    assert [path.name for path in tmp_path.glob("*.geojson")] == ["known.geojson"]


def test_merging_needs_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rasterio one line says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "rasterio.features", None)
    printed = score(PAGE, "--grid", tmp_path / "a.geojson", "--merge", status=3)
    assert "merge: expected the package rasterio, got none; pip install rasterio" in printed
    assert not list(tmp_path.iterdir())


def merged(classes: NDArray[np.intp], path: Path, *, uneven: bool = False) -> list[dict[str, Any]]:
    """Write the polygons of a map of classes, -1 for windows that were not scored; returns the features."""
    axes = [WindowAxis(count, 2, 2 + 4 * (count - 1) - uneven * 3, 4, 8, 0, 1.5) for count in classes.shape]
    indices = tuple(range(4))
    header = GridHeader(ImageInfo("image", 99, 99), axes[0], axes[1], indices, tuple("abcd"), 4)
    scores = np.where(classes[..., None] == indices, np.float32(2), np.float32(1)).astype(np.float32)
    scores[classes < 0] = np.nan
    with grid_file(path, CellValues(header, RAW, indices, {"merge": True}, {0: "#c01040"})) as write:
        for first in range(0, len(scores), 2):
            write(GridRows(first, scores[first : first + 2]))
    features: list[dict[str, Any]] = read(path)["features"]
    return features


def regions(classes: NDArray[np.intp]) -> list[set[tuple[int, int]]]:
    """Return the cells of each region of neighbours with the same class, by a search from cell to cell."""
    found, seen = [], {(int(row), int(col)) for row, col in np.argwhere(classes < 0)}
    for start in np.ndindex(classes.shape):
        if start in seen:
            continue
        region, waiting = {start}, deque([start])
        while waiting:
            row, col = waiting.popleft()
            for near in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
                inside = 0 <= near[0] < classes.shape[0] and 0 <= near[1] < classes.shape[1]
                if inside and near not in region and classes[near] == classes[start]:
                    region.add(near)
                    waiting.append(near)
        seen |= region
        found.append(region)
    return found


@pytest.mark.extras
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
def test_polygons_are_the_regions(uneven: bool, tmp_path: Path) -> None:  # noqa: FBT001 (a parameter)
    """Each region is one valid polygon that covers exactly its blocks, also where blocks touch only at a corner."""
    import shapely  # noqa: PLC0415 (not always installed)

    rng = np.random.default_rng(1)
    edges = (np.arange(SIZE + 1) * 4 + 4.0) * 1.5
    if uneven:  # the last window lies 3 pixels before the lattice
        edges[-1] -= 3 * 1.5
    boxes = {(row, col): shapely.box(edges[col], edges[row], edges[col + 1], edges[row + 1])
             for row in range(SIZE) for col in range(SIZE)}  # fmt: skip
    holes = 0
    for classes in (rng.integers(-1, 4 - number % 3, (SIZE, SIZE)) for number in range(60)):
        features = merged(classes, tmp_path / "a.geojson", uneven=uneven)
        expected = {shapely.union_all([boxes[cell] for cell in region]): region for region in regions(classes)}
        assert len(features) == len(expected)
        for feature in features:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert shapely.is_valid(shape)
            (region,) = [region for other, region in expected.items() if shapely.equals(shape, other)]
            assert_allclose(shape.area, sum(boxes[cell].area for cell in region), rtol=1e-12)
            assert feature["properties"]["measurements"] == {"cells": len(region), "score_mean": 2.0, "score_max": 2.0}
            assert feature["properties"]["classification"]["name"] == "abcd"[classes[min(region)]]
            exterior, *interior = (np.array(ring) for ring in feature["geometry"]["coordinates"])
            assert area(exterior) > 0
            assert all(area(ring) < 0 for ring in interior)
            holes += len(interior)
    assert holes > 0


@pytest.mark.extras
def test_measurements_of_a_region(tmp_path: Path) -> None:
    """A polygon has the number of its windows, and the mean and the highest probability of its class among them."""
    import shapely  # noqa: PLC0415 (not always installed)

    files = [tmp_path / name for name in ("a.geojson", "all.geojson")]
    score(PAGE, "--grid", files[0], "--merge", "--threshold", 0.6)
    score(PAGE, "--grid", files[1], "--grid-as", "argmax", "--threshold", 0.6)
    large, tiles = read(files[0])["features"], read(files[1])["features"]
    shapes = shapely.from_geojson([json.dumps(tile["geometry"]) for tile in tiles])
    values = np.array([tile["properties"]["measurements"]["prob"] for tile in tiles])
    names = np.array([tile["properties"]["classification"]["name"] for tile in tiles])
    found = 0
    for feature in large:
        assert feature["properties"]["objectType"] == "annotation"
        inside = shapely.contains(shapely.from_geojson(json.dumps(feature["geometry"])), shapely.centroid(shapes))
        measured = feature["properties"]["measurements"]
        assert set(names[inside]) == {feature["properties"]["classification"]["name"]}
        assert measured["cells"] == inside.sum()
        assert_allclose(measured["prob_mean"], values[inside].mean(), rtol=1e-6)
        assert measured["prob_max"] == values[inside].max()
        found += measured["cells"]
    assert 10 < len(large) < len(tiles) == found


@pytest.mark.extras
def test_nothing_to_merge_and_colours(tmp_path: Path) -> None:
    """No scored window gives a file without polygons; a class with a colour has it."""
    assert merged(np.full((3, 4), -1), tmp_path / "a.geojson") == []
    (feature,) = merged(np.zeros((3, 4), np.intp), tmp_path / "a.geojson")
    assert feature["properties"]["classification"] == {"name": "a", "color": [192, 16, 64]}
    assert len(feature["geometry"]["coordinates"][0]) == 5


@pytest.mark.extras
@pytest.mark.parametrize("tags", [SCALED, TURNED], ids=["scale and point", "transformation"])
@pytest.mark.parametrize("merge", [False, True], ids=["tiles", "merged"])
def test_rasterio_places_the_same_corners(merge: bool, tags: list[Any], tmp_path: Path) -> None:  # noqa: FBT001
    """Corners lie where rasterio's transformation puts them, to a millionth of a pixel; rings run as RFC 7946 wants."""
    import rasterio  # noqa: PLC0415 (an extra)
    import shapely  # noqa: PLC0415 (not always installed)

    image, files = scene(tmp_path / "scene.tif", tags, UTM), [tmp_path / "pixels.geojson", tmp_path / "map.geojson"]
    options = ["--border", "anchor", *(["--merge"] if merge else [])]
    score(image, "--grid", files[0], *options)
    score(image, "--grid", files[1], "--coordinates", "map", *options)
    with rasterio.open(image) as raster:
        assert raster.crs.to_epsg() == 32633
        transform = raster.transform
    for pixels, placed in zip(*map(rings_of, files), strict=True):
        for ring, other in zip(pixels, placed, strict=True):
            expected = np.column_stack(transform @ (ring[:, 0], ring[:, 1]))
            assert_allclose(other, expected[::-1], rtol=0, atol=2.5e-7)
            assert area(other) * area(ring) > 0
    shapes = shapely.get_parts(shapely.from_geojson(files[1].read_text("utf-8")))
    assert shapely.is_valid(shapes).all()
