"""Networks that take an image's own values: the certificate is measured on images with such values."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from support.conversion import convert_into
from support.networks import Network, make_network
from support.paths import ROOT
from support.pictures import noise

from converter.errors import SourceError
from converter.verify.given_images import given_images
from converter.verify.images import PixelFormat

TOML = """
name = "reflectance"
channels = 4
window = [22, 26]
preprocess = "none"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "b", out = 8, kernel = 3, pad = 1 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "flatten" },
  { op = "linear", key = "d" },
]
"""


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return make_network(tmp_path, TOML)


def certificate(network: Network, folder: Path, dtype: str, images: Path | None) -> dict[str, Any]:
    """Return the parity at the native stride in report.json."""
    preprocess = folder / "preprocess.json"
    preprocess.write_text(json.dumps({"scale": 1e-4, "mean": [0.3] * 4, "std": [0.2] * 4, "dtype": dtype}))
    models = convert_into(folder / "models", network, preprocess=str(preprocess), images=images)
    report = json.loads((models / "reflectance/1/report.json").read_text())
    assert report["input"]["dtype"] == report["input"]["preprocessing"]["dtype"] == dtype
    return dict(report["parity"][0])


def scene(seed: int) -> np.ndarray:
    return noise(60, 90, 4, seed=seed).astype(np.uint16) * 39


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_images_are_read_unscaled(network: Network, tmp_path: Path, dtype: str) -> None:
    """A TIFF file and an array of the same values give the same certificate; values scaled to 8 bits would not."""
    kinds = {"tif": tmp_path / "tif", "npy": tmp_path / "npy", "bytes": tmp_path / "bytes"}
    for folder in kinds.values():
        folder.mkdir()
    tifffile.imwrite(kinds["tif"] / "scene.tif", scene(1), photometric="minisblack", planarconfig="contig")
    np.save(kinds["npy"] / "scene.npy", scene(1))
    np.save(kinds["bytes"] / "scene.npy", (scene(1) // 257).astype(np.uint8))
    measured = {}
    for kind, folder in kinds.items():
        (tmp_path / f"to {kind}").mkdir()
        measured[kind] = certificate(network, tmp_path / f"to {kind}", dtype, folder)
    assert measured["tif"] == measured["npy"]
    assert measured["tif"]["overall"] != measured["bytes"]["overall"]
    assert measured["tif"]["images"] == 1


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_noise_has_the_range_of_the_preprocessing(network: Network, tmp_path: Path, dtype: str) -> None:
    """The scores of two windows differ, so that comparisons are meaningful."""
    assert certificate(network, tmp_path, dtype, None)["overall"]["windows"] > 0


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (noise(60, 90, 3).astype(np.uint16), "expected 4 bands of uint8 or uint16, .* got 3 of uint16"),
        (scene(1).astype(np.float32), "expected 4 bands of uint8 or uint16, .* got 4 of float32"),
        (scene(1)[None], r"expected \(height, width\[, channels\]\), got \(1, 60, 90, 4\)"),
    ],
    ids=["bands", "type", "axes"],
)
def test_other_values_are_refused(network: Network, tmp_path: Path, pixels: np.ndarray, got: str) -> None:
    """Images with other bands or types than the network takes are refused; the error names them; nothing is written."""
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images/scene.npy", pixels)
    with pytest.raises(SourceError, match=got):
        certificate(network, tmp_path, "uint16", tmp_path / "images")
    assert not (tmp_path / "models/reflectance/1").exists()


@pytest.mark.parametrize("name", ["ycbcr_444_raw", "rgb_nir_unspecified", "reduced_first", "rgb_zstd", "cielab_8bit"])
def test_photographs_that_would_be_misread_are_refused(name: str, tmp_path: Path) -> None:
    """TIFF files whose colours would be read wrongly are refused."""
    shutil.copy(ROOT / "tests/data/images" / f"{name}.tif", tmp_path)
    with pytest.raises(SourceError, match=f"{name}.tif: "):
        given_images(tmp_path, PixelFormat(3), (8, 8))
