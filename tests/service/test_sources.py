"""Tiled and large TIFF files, and files that need an extra, are read strip by strip."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.testing import assert_array_equal
from support.paths import ROOT
from support.pictures import noise, png

from fullconv.protos import model_pb2
from service.errors import ImageError
from service.images.files import open_path
from service.images.picture import FIRST_PAGE

RGB = model_pb2.Input(channels=3, dtype="uint8")
extras = pytest.mark.extras


def pixels_of(path: Path, model_input: model_pb2.Input = RGB) -> np.ndarray:
    picture = open_path(path)
    return picture.rows(model_input).read(0, picture.height)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": True, "pyramid": True},
        {"tile": True, "pyramid": True, "subifd": True, "bigtiff": True, "compression": "lzw"},
        {"tile": True, "compression": "deflate", "predictor": "horizontal"},
        {"tile": False, "compression": "none"},
        {"tile": True, "tile_width": 128, "tile_height": 64, "compression": "jpeg", "Q": 100},
    ],
    ids=["pyramid", "bigtiff-subifd", "deflate", "strips", "jpeg"],
)
def test_tiffs(tmp_path: Path, options: dict[str, object]) -> None:
    """The page of full resolution is read from tiled, pyramidal, BigTIFF and compressed files."""
    pixels = noise(700, 900, 3)
    path = tmp_path / "image.tif"
    pyvips.Image.new_from_array(pixels).tiffsave(str(path), **options)
    assert np.abs(pixels_of(path).astype(int) - pixels).mean() < (3 if options.get("compression") == "jpeg" else 1e-9)


def test_ome_tiffs(tmp_path: Path) -> None:
    """An OME-TIFF file of RGB pixels is read as an RGB image."""
    import tifffile  # noqa: PLC0415 (only some tests need it)

    pixels = noise(300, 400, 3)
    path = tmp_path / "image.ome.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), ome=True, metadata={"axes": "YXS"})
    assert_array_equal(pixels, pixels_of(path))


def test_truncated_tiles_are_refused(tmp_path: Path) -> None:
    """A tiled file without the end of its last tile is refused when that tile is read, and not earlier."""
    import tifffile  # noqa: PLC0415 (writes its directory first)

    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(900, 900, 3), photometric="rgb", tile=(128, 128), metadata=None)
    path.write_bytes(path.read_bytes()[:-1000])
    rows = open_path(path).rows(RGB)
    rows.read(0, 128)
    with pytest.raises(ImageError, match="truncated: they end at byte 3146352, the file ends at byte 3145352"):
        rows.read(640, 900)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "jpeg", "webp"])
def test_damaged_tiles_are_refused(tmp_path: Path, compression: str) -> None:
    """A tile that cannot be decoded is an error; it is not filled with black."""
    import tifffile  # noqa: PLC0415 (only some tests need it)

    path = tmp_path / "image.tif"
    pyvips.Image.new_from_array(noise(900, 900, 3)).tiffsave(str(path), tile=True, compression=compression)
    with tifffile.TiffFile(path) as file:
        first, size = file.pages[0].dataoffsets[20], file.pages[0].databytecounts[20]
    data = path.read_bytes()
    path.write_bytes(data[:first] + bytes(size) + data[first + size :])
    with pytest.raises(ImageError, match="cannot be decoded: damaged"):
        pixels_of(path)


def test_missing_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a file that needs an extra names the packages to install."""
    monkeypatch.setattr("service.images.files.find_spec", lambda _: None)
    for suffix, packages in ((".mrxs", "openslide-bin openslide-python"), (".jp2", "rasterio")):
        path = tmp_path / f"image{suffix}"
        path.write_bytes(b"no image that is read without")
        with pytest.raises(ImageError, match=f"files need pip install {packages}$"):
            open_path(path)


def score(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fullconv", *map(str, arguments), "--model", "digits", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@extras
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_arrays(tmp_path: Path, version: int) -> None:
    """A chunked Zarr array is scored as an image of its pixels; a Zarr group is refused as a group."""
    import zarr  # noqa: PLC0415 (an extra)

    pixels = noise(150, 200, 1)[..., 0]
    array = zarr.create_array(
        tmp_path / "image.zarr", shape=pixels.shape, chunks=(64, 64), dtype="uint8", zarr_format=version
    )
    array[:] = pixels
    (tmp_path / "image.png").write_bytes(png(pixels))
    one, other = (score(tmp_path / f"image.{suffix}") for suffix in ("zarr", "png"))
    assert one.returncode == 0, one.stderr
    assert json.loads(one.stdout)["average"] == json.loads(other.stdout)["average"]
    zarr.create_group(tmp_path / "group.zarr")
    assert "expected an array, got a group" in score(tmp_path / "group.zarr").stderr


@extras
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_rasters_nodata_is_a_mask(tmp_path: Path, kind: str) -> None:
    """Windows with a nodata pixel are not scored, with and without another mask."""
    import rasterio  # noqa: PLC0415 (an extra)

    pixels = np.maximum(noise(200, 260, 1)[..., 0], 1).astype(kind)
    pixels[:, :100] = 0
    path = tmp_path / "scene.tif"
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    profile = {"driver": "GTiff", "width": 260, "height": 200, "count": 1, "dtype": kind, "nodata": 0, "tiled": True}
    with rasterio.open(path, "w", blockxsize=128, blockysize=128, **profile) as raster:
        raster.write(pixels[None])
    result = score(path, "--grid", tmp_path / "grid.npz")
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "grid.npz") as grid:
        assert_array_equal(np.isfinite(grid["scores"][0, :, 0]), grid["x"] >= 100)
    assert json.loads(result.stdout)["grid"]["scored"] == 17 * 11
    mask = np.zeros((200, 260), np.uint8)
    mask[:100] = 1
    (tmp_path / "mask.png").write_bytes(png(mask))
    assert json.loads(score(path, "--mask", tmp_path / "mask.png").stdout)["grid"]["scored"] == 4 * 11


@extras
def test_jpeg_2000(tmp_path: Path) -> None:
    """A raster format whose libvips loader is blocked is read by rasterio."""
    import rasterio  # noqa: PLC0415 (an extra)

    pixels = noise(300, 400, 3)
    path = tmp_path / "scene.jp2"
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    profile = {"driver": "JP2OpenJPEG", "width": 400, "height": 300, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", quality=100, reversible=True, **profile) as raster:
        raster.write(np.moveaxis(pixels, -1, 0))
    assert_array_equal(pixels, pixels_of(path))


@extras
def test_rasters_do_not_lead_elsewhere(tmp_path: Path) -> None:
    """A VRT file, which refers to other files, is not opened."""
    path = tmp_path / "scene.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="99" rasterYSize="99"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    with pytest.raises(ImageError, match="got text that begins with '<VRTDataset"):
        open_path(path)


def aperio(path: Path, pixels: np.ndarray) -> None:
    """A file as Aperio's scanners write it: a tiled TIFF with JPEG compression and Aperio's description."""
    import tifffile  # noqa: PLC0415 (only some tests need it)

    description = "Aperio Image Library v11.2.1\r\n900x700 [0,0 900x700] (256x256) JPEG/RGB Q=100|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, tile=(256, 256), photometric="rgb", compression=None, description=description, metadata=None)


@extras
def test_slides(tmp_path: Path) -> None:
    """A file in a scanner's format is read by OpenSlide, strip by strip, with the pixels that were written."""
    from service.images.slides import open_slide  # noqa: PLC0415 (an extra)

    pixels = noise(700, 1300, 3)
    path = tmp_path / "slide.svs"
    aperio(path, pixels)
    picture = open_slide(path, "slide.svs", FIRST_PAGE)
    assert picture is not None
    rows = picture.rows(RGB)
    assert_array_equal(pixels, np.concatenate([rows.read(0, 300), rows.read(300, 700)]))
    assert open_path(path).rows(RGB).read(0, 700).shape == pixels.shape
