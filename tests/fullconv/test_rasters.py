"""Grids as rasters: the pixels, the overviews, the nodata value and the georeference of a .tif file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from support.paths import ROOT
from support.pictures import noise
from typer.testing import CliRunner

from fullconv import Scorer
from fullconv.command.cli import app

KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
"""GeoKeys: projected, a pixel is an area, UTM zone 33 north."""
POINT_KEYS = (*KEYS[:11], 2, *KEYS[12:])
"""The same, but the coordinates of a pixel are those of its centre."""
SCALE, POINT, MATRIX, KEY_TAG, NODATA = 33550, 33922, 34264, 34735, 42113
SUBFILE_TYPE, TILE_WIDTH, TILE_LENGTH = 254, 322, 323
SCALED = [(SCALE, "d", 3, (0.5, 0.25, 0.0), True), (POINT, "d", 6, (0, 0, 0, 500_000, 5_000_000, 0), True)]
"""Half a metre by a quarter of a metre, from the top left corner."""
TURNED = (0.3, 0.4, 0, 1000, 0.4, -0.3, 0, 2000, 0, 0, 0, 0, 0, 0, 0, 1)
"""A scene that is not aligned with the axes of its coordinate system."""


Steps = tuple[tuple[float, float], tuple[float, float]]
"""From a pixel of the raster to its right and to its lower neighbour."""


def scene(path: Path, tags: list[Any], keys: tuple[int, ...] = KEYS) -> Path:
    """Write a GeoTIFF of 300×420 grey pixels."""
    tifffile.imwrite(
        path, noise(300, 420, 1)[..., 0], photometric="minisblack", tile=(64, 64), metadata=None,
        extratags=[*tags, (KEY_TAG, "H", len(keys), keys, True)],
    )  # fmt: skip
    return path


@dataclass(frozen=True)
class Page:
    """A page of a raster: its pixels, (bands, rows, cols) or (rows, cols), and the values of its tags."""

    pixels: NDArray[np.float32]
    tags: Mapping[int, Any]


def read(path: Path) -> list[Page]:
    """Return the pages of a raster, the largest first."""
    with tifffile.TiffFile(path) as file:
        pages = [each.aspage() for each in file.pages]
        return [Page(page.asarray(), {tag.code: tag.value for tag in page.tags}) for page in pages]


def score(image: Path, target: Path, *options: object) -> list[Page]:
    """Score a scene with the command; returns the pages of the raster."""
    words = [image, "--models", ROOT / "models", "--model", "digits", "--grid", target, *options]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return read(target)


def placed(page: Page, x: float, y: float) -> NDArray[np.float64]:
    """Return the coordinates of a point of a raster, in pixels from its top left corner."""
    means_centre = page.tags[KEY_TAG][11] == 2
    matrix = np.array(page.tags[MATRIX]).reshape(4, 4)
    result: NDArray[np.float64] = matrix @ [x - means_centre / 2, y - means_centre / 2, 0, 1]
    return result[:2]


def test_pixels_are_probabilities(tmp_path: Path) -> None:
    """Each band holds the probability of a class; the file is tiled, and states its nodata value."""
    image = scene(tmp_path / "scene.tif", SCALED)
    pages = score(image, tmp_path / "grid.tif", "--grid", tmp_path / "grid.npz")
    with np.load(tmp_path / "grid.npz") as grid:
        powers = np.exp(grid["scores"] - grid["scores"].max(-1, keepdims=True))
    assert_array_equal(np.moveaxis(pages[0].pixels, 0, -1), powers / powers.sum(-1, keepdims=True))
    assert (pages[0].tags[TILE_WIDTH], pages[0].tags[TILE_LENGTH], pages[0].tags[NODATA]) == (256, 256, "nan")


def test_plain_images_have_no_georeference(tmp_path: Path) -> None:
    """The raster of an image without a georeference is a plain TIFF; a single class is a single band."""
    pages = score(ROOT / "models" / "digits" / "page.png", tmp_path / "grid.tif", "--classes", "3")
    assert pages[0].pixels.shape == (88, 120)
    assert not {SCALE, POINT, MATRIX, KEY_TAG} & pages[0].tags.keys()


@pytest.mark.parametrize("keys", [KEYS, POINT_KEYS], ids=["corner", "centre"])
@pytest.mark.parametrize(
    ("tags", "corner", "step"),
    [
        (SCALED, (500_000 + 31 * 0.5, 5_000_000 - 31 * 0.25), ((4, 0), (0, -2))),
        ([(MATRIX, "d", 16, TURNED, True)], (1000 + 31 * 0.7, 2000 + 31 * 0.1), ((2.4, 3.2), (3.2, -2.4))),
    ],
    ids=["scale and point", "transformation"],
)
def test_the_raster_lies_on_the_scene(
    tags: list[Any],
    corner: tuple[float, float],
    step: Steps,
    keys: tuple[int, ...],
    tmp_path: Path,
) -> None:
    """Pixels of the raster are blocks of 8×8 pixels, from the block around the centre of the first window on."""
    page = score(scene(tmp_path / "scene.tif", tags, keys), tmp_path / "grid.tif")[0]
    shift = np.array([0.5, 0.5]) if keys is POINT_KEYS else np.zeros(2)
    per_pixel = np.array(step).T / 8
    expected = corner - per_pixel @ shift  # the first pixel's centre has the stated coordinates instead of its corner
    assert_allclose(placed(page, 0, 0), expected, rtol=0, atol=1e-6)
    assert_allclose(placed(page, 1, 0) - placed(page, 0, 0), step[0], rtol=0, atol=1e-6)
    assert_allclose(placed(page, 0, 1) - placed(page, 0, 0), step[1], rtol=0, atol=1e-6)
    assert page.tags[KEY_TAG] == keys


def test_regions_and_scales(tmp_path: Path) -> None:
    """A region moves the raster; a scale changes the size of its pixels in the scene."""
    image = scene(tmp_path / "scene.tif", SCALED)
    page = score(image, tmp_path / "roi.tif", "--roi", "40,16,200,200")[0]
    assert_allclose(placed(page, 0, 0), [500_000 + 71 * 0.5, 5_000_000 - 47 * 0.25], rtol=0, atol=1e-6)
    page = score(image, tmp_path / "half.tif", "--scales", "0.5x")[0]
    assert_allclose(placed(page, 1, 1) - placed(page, 0, 0), [16 * 0.5, -16 * 0.25], rtol=0, atol=1e-6)


def test_overviews_and_masked_windows(tmp_path: Path) -> None:
    """Overviews have half the size of the page before them, and the mean of the pixels that have data."""
    image = scene(tmp_path / "scene.tif", SCALED)
    mask = np.full((300, 420), 255, np.uint8)
    mask[:, 300:] = 0
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack")
    options = ("--mode", "crops", "--stride", 1, "--classes", "3,background", "--roi", "100,100,320,200")
    pages = score(image, tmp_path / "grid.tif", *options[2:], "--mask", tmp_path / "mask.tif")
    assert [page.pixels.shape for page in pages] == [(2, 131, 251)]
    assert np.isnan(pages[0].pixels[:, :, 200:]).all()
    pages = score(
        image, tmp_path / "whole.tif", "--stride", 1, "--classes", "3,background", "--mask", tmp_path / "mask.tif"
    )
    assert [page.pixels.shape for page in pages] == [(2, 231, 351), (2, 116, 176)]
    whole, half = (page.pixels for page in pages)
    assert [int(page.tags.get(SUBFILE_TYPE, 0)) for page in pages] == [0, 1]
    assert_allclose(half[:, :100, :100], whole[:, :200, :200].reshape(2, 100, 2, 100, 2).mean((2, 4)), rtol=1e-5)
    assert np.isnan(half[:, :, 117:]).all()


DAMAGED = {
    "no scale": [SCALED[1]],
    "several points": [SCALED[0], (POINT, "d", 12, (0.0,) * 12, True)],
    "not a number": [(MATRIX, "d", 16, (float("nan"),) * 16, True)],
    "a short matrix": [(MATRIX, "d", 4, (1.0,) * 4, True)],
}


@pytest.mark.parametrize("tags", DAMAGED.values(), ids=DAMAGED)
def test_georeferences_that_are_no_transformation(tags: list[Any], tmp_path: Path) -> None:
    """The raster then has no georeference, and its pixels are those of the scene."""
    page = score(scene(tmp_path / "scene.tif", tags), tmp_path / "grid.tif")[0]
    assert page.pixels.shape == (11, 29, 44)
    assert not {SCALE, POINT, MATRIX, KEY_TAG} & page.tags.keys()


def test_arrays_have_no_georeference(tmp_path: Path) -> None:
    """Pixels in memory have no file that could state where they lie."""
    with Scorer(ROOT / "models") as scorer:
        scorer.score(noise(90, 90, 1), model="digits", grid=True).save(tmp_path / "grid.tif")
    assert MATRIX not in read(tmp_path / "grid.tif")[0].tags


@pytest.mark.extras
def test_rasterio_reads_them(tmp_path: Path) -> None:
    """With rasterio: coordinate system, transformation, overviews and nodata value."""
    import rasterio  # noqa: PLC0415 (an extra)

    score(scene(tmp_path / "scene.tif", SCALED), tmp_path / "grid.tif", "--stride", 1, "--classes", "3,background")
    with rasterio.open(tmp_path / "grid.tif") as raster:
        assert raster.crs.to_epsg() == 32633
        assert_allclose(raster.transform @ (0, 0), [500_000 + 34.5 * 0.5, 5_000_000 - 34.5 * 0.25], rtol=0, atol=1e-6)
        assert_allclose(raster.transform @ (1, 1), [500_000 + 35.5 * 0.5, 5_000_000 - 35.5 * 0.25], rtol=0, atol=1e-6)
        assert (raster.count, raster.overviews(1), np.isnan(raster.nodata)) == (2, [2], True)
        small = raster.read(1, out_shape=(116, 176))
    with rasterio.open(tmp_path / "grid.tif", overview_level=0) as overview:
        assert_array_equal(overview.read(1), small)
