"""Regions in the coordinates of a map: --roi with --roi-crs."""

import json
from pathlib import Path
from typing import Any

import pytest
import tifffile
from support.paths import ROOT
from support.pictures import noise
from typer.testing import CliRunner, Result

from fullconv.command.cli import app
from fullconv.command.map_region import MapRegion

UTM = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
UTM_POINTS = (*UTM[:11], 2, *UTM[12:])
"""The same, but the coordinates of a pixel are those of its centre."""
PLACED = [(33550, "d", 3, (0.5, 0.25, 0.0), True), (33922, "d", 6, (0, 0, 0, 500_000, 5_000_000, 0), True)]
"""Half a metre by a quarter of a metre, from the top left corner."""
TURNED = [(34264, "d", 16, (0, 0.5, 0, 1000, 0.5, 0, 0, 2000, 0, 0, 0, 0, 0, 0, 0, 1), True)]
"""Rows to the east, columns to the north."""


def scene(path: Path, tags: list[Any], keys: tuple[int, ...] = UTM) -> Path:
    """Write a GeoTIFF of 300×420 grey pixels."""
    extra = [*tags, (34735, "H", len(keys), keys, True)] if keys else []
    tifffile.imwrite(path, noise(300, 420, 1)[..., 0], photometric="minisblack", metadata=None, extratags=extra)
    return path


def run(image: Path, *arguments: str) -> Result:
    words = [str(image), "--models", str(ROOT / "models"), "--model", "digits", "--json", *arguments]
    return CliRunner().invoke(app, words)


def test_pixels_inside_a_rectangle(tmp_path: Path) -> None:
    """Only whole pixels inside the rectangle belong to it; edges on edges of pixels are inside."""
    path = scene(tmp_path / "a.tif", PLACED)
    assert MapRegion((500_010, 4_999_950, 500_060, 4_999_990), "image").pixels(path, 0) == (20, 40, 100, 160)
    assert MapRegion((500_010.1, 4_999_950.1, 500_059.9, 4_999_989.9), "image").pixels(path, 0) == (21, 41, 98, 158)
    centred = scene(tmp_path / "b.tif", PLACED, UTM_POINTS)
    assert MapRegion((500_009.75, 4_999_950.125, 500_059.75, 4_999_990.125), "image").pixels(centred, 0) == (
        20, 40, 100, 160,
    )  # fmt: skip
    turned = scene(tmp_path / "c.tif", TURNED)
    assert MapRegion((1010, 2020, 1060, 2100), "image").pixels(turned, 0) == (40, 20, 160, 100)


def test_the_command_scores_the_region(tmp_path: Path) -> None:
    """The windows are those of the same region in pixels; what lies beyond the image is left out."""
    path = scene(tmp_path / "a.tif", PLACED)
    pairs = [("500010,4999950,50,40", "20,40,100,160"), ("499000,4999950,1060,5000", "0,0,120,200")]
    for on_map, in_pixels in pairs:
        one, other = (
            json.loads(run(path, "--roi", on_map, "--roi-crs", "image").output),
            json.loads(run(path, "--roi", in_pixels).output),
        )
        assert one["grid"] == other["grid"]
        assert one["average"] == other["average"]


@pytest.mark.extras
def test_another_coordinate_system(tmp_path: Path) -> None:
    """Longitude and latitude of the middle of a UTM zone become metres east and north."""
    path = scene(tmp_path / "a.tif", [PLACED[0], (33922, "d", 6, (0, 0, 0, 500_000, 0, 0), True)])
    degree = 1 / 111_319.49 / 0.9996
    box = (15 + 50 * degree, -60 * degree, 15 + 150 * degree, -20 * degree)
    x, y, width, height = MapRegion(box, "EPSG:4326").pixels(path, 0)
    assert [x, y, width, height] == pytest.approx([100, 80, 200, 160], abs=2)
    result = run(path, "--roi", "15,0,1,1", "--roi-crs", "nonsense")
    assert result.exit_code == 3
    assert "roi-crs: expected a coordinate system of GDAL, got nonsense" in result.output


REFUSED: list[tuple[list[str], int, str]] = [
    (["--roi", "1,2,3", "--roi-crs", "image"], 2, "expected x,y,width,height in units of --roi-crs"),
    (["--roi", "1,2,0,3", "--roi-crs", "image"], 2, "expected x,y,width,height"),
    (["--roi", "1,2,nan,3", "--roi-crs", "image"], 2, "expected x,y,width,height"),
    (["--roi-crs", "image"], 2, "expected --roi with it"),
    (["--roi", "0,0,10,10", "--roi-crs", "image"], 3,
     "a.tif: roi: expected a region inside the image of 420×300 pixels (width×height), got x from -1000000.0"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "status", "expected"), REFUSED)
def test_refused_regions(tmp_path: Path, options: list[str], status: int, expected: str) -> None:
    """Text that is no rectangle is exit 2, a rectangle beside the image exit 3."""
    result = run(scene(tmp_path / "a.tif", PLACED), *options)
    assert result.exit_code == status
    assert expected in " ".join(result.output.replace("│", " ").split())


def test_images_without_a_georeference(tmp_path: Path) -> None:
    """The error says how to go on."""
    result = run(scene(tmp_path / "a.tif", [], ()), "--roi", "1,2,3,4", "--roi-crs", "image")
    assert result.exit_code == 3
    assert "roi: expected an image with a georeference, got none; give --roi in pixels" in result.output


def with_copy_first(path: Path) -> Path:
    """Write a GeoTIFF whose first page is a reduced copy without a georeference."""
    pixels = noise(300, 420, 1)[..., 0]
    keys: list[Any] = [*PLACED, (34735, "H", len(UTM), UTM, True)]
    layout: Any = {"photometric": "minisblack", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels[::4, ::4], subfiletype=1, **layout)
        tiff.write(pixels, extratags=keys, **layout)
    return path


def test_the_georeference_is_that_of_the_scored_page(tmp_path: Path) -> None:
    """If a reduced copy is the first page, the page of full resolution gives the region and the place of the raster."""
    plain, other = scene(tmp_path / "a.tif", PLACED), with_copy_first(tmp_path / "b.tif")
    region = MapRegion((500_010, 4_999_950, 500_060, 4_999_990), "image")
    assert region.pixels(other, 0) == region.pixels(plain, 0)
    tags: list[dict[int, Any]] = []
    for path in (plain, other):
        result = run(path, "--grid", str(tmp_path / "grid.tif"))
        assert result.exit_code == 0, result.stderr
        with tifffile.TiffFile(tmp_path / "grid.tif") as grid:
            tags.append({code: grid.pages[0].tags[code].value for code in (34264, 34735)})
    assert tags[0] == tags[1]
