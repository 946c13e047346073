"""Networks that take an image's own values, 16-bit or floating-point, instead of pixels from 0 to 255."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tifffile
from google.protobuf.message import Message
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support import reference
from support.conversion import convert_into
from support.networks import Network, make_network
from support.pictures import noise
from support.servers import Server, running

from fullconv import Answer, Client, ImageError, Scorer
from fullconv.protos import open_inference_pb2 as oip

REFLECTANCE = """
name = "reflectance"
channels = 4
window = [22, 26]
preprocess = "none"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "b", out = 8, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "flatten" },
  { op = "linear", key = "d" },
]
"""
EMPTY = 30
"""Number of columns without data at the left of the scene."""
GEOTIFF = [
    (33550, "d", 3, (10.0, 10.0, 0.0), True),  # ModelPixelScale
    (33922, "d", 6, (0.0, 0.0, 0.0, 600000.0, 5300000.0, 0.0), True),  # ModelTiepoint
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),  # UTM zone 32 north
    (42113, "s", 0, "0", True),  # GDAL_NODATA
]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Return a network of four bands that takes reflectance, x / 10000."""
    return make_network(tmp_path_factory.mktemp("network"), REFLECTANCE)


@pytest.fixture(scope="module", params=["uint16", "float32"])
def models(network: Network, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the network, converted for uint16 and for float32 values."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "reflectance.json").write_text(json.dumps({"scale": 1e-4, "dtype": request.param}))
    return convert_into(folder / "models", network, preprocess=str(folder / "reflectance.json"))


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Reflectance times 10000 in four bands, 0 in the columns without data."""
    pixels = noise(60, 90, 4).astype(np.uint16) * 39 + 1
    pixels[:, :EMPTY] = 0
    return pixels


@pytest.fixture(scope="module")
def scene(values: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scene as a GeoTIFF with a coordinate reference system and a nodata value."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    options: Any = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib", "tile": (32, 32)}
    tifffile.imwrite(path, values, extratags=GEOTIFF, metadata=None, **options)
    return path


def truth(network: Network, values: np.ndarray) -> np.ndarray:
    """Return the network's own scores of every window, NaN for windows with a pixel without data."""
    rows, cols = (values.shape[0] - 22) // 4 + 1, (values.shape[1] - 26) // 4 + 1
    cells = np.full((rows, cols, 5), np.nan)
    for row, col in np.ndindex(rows, cols):
        window = values[row * 4 : row * 4 + 22, col * 4 : col * 4 + 26]
        if window.all():
            cells[row, col] = reference.run(network.architecture, network.tensors, window.transpose(2, 0, 1) / 10000)
    return cells


@pytest.fixture(scope="module")
def expected(network: Network, values: np.ndarray) -> np.ndarray:
    """Return the network's own scores of the scene."""
    return truth(network, values)


@pytest.fixture(scope="module")
def server(models: Path, scene: Path) -> Iterator[Server]:
    """Run a server of these models, in whose allowed directory the scene is."""
    with running(models, "--images", str(scene.parent)) as server:
        yield server


def local(models: Path, image: Path) -> tuple[np.ndarray, Answer]:
    """Score an image in this process; returns its grid and answer."""
    answer = Scorer(models).score(image, model="reflectance", grid=True)
    assert answer.grid is not None
    return answer.grid, answer


def test_scenes_are_scored_by_their_own_values(models: Path, scene: Path, expected: np.ndarray, client: Client) -> None:
    """A GeoTIFF of four 16-bit bands has the network's scores of its raw values, locally and on a server."""
    grid, answer = local(models, scene)
    assert_allclose(grid, expected, atol=1e-5)
    assert answer.scored == np.isfinite(expected[..., 0]).sum() > 0
    assert_allclose(answer.average, np.nanmean(expected, axis=(0, 1)), atol=1e-5)
    assert not answer.warnings
    sent = client.score(scene, model="reflectance", grid=True)
    assert_array_equal(sent.grid, grid)
    with client.score_large(scene, model="reflectance", grid=True) as run:
        assert_array_equal(np.concatenate([scores for _, scores in run.bands()]), grid)
    assert sent.average.tolist() == answer.average.tolist()


@pytest.mark.extras
@pytest.mark.parametrize("extra", ["rasterio", "openslide"])
def test_extras_change_no_value(
    models: Path, scene: Path, expected: np.ndarray, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one extra installed the scene has the same scores as without extras."""
    monkeypatch.setattr("service.images.files.find_spec", lambda name: find_spec(name) if name == extra else None)
    assert find_spec(extra) is not None
    assert_allclose(local(models, scene)[0], expected, atol=1e-5)


def inferred(address: str, pixels: np.ndarray) -> np.ndarray:
    """The grid (rows, cols, classes) from the Open Inference Protocol, with the inputs that the metadata name."""
    with grpc.insecure_channel(address) as channel:

        def call(method: str, request: Message, answer: type[Message]) -> Any:  # noqa: ANN401 (one of `answer`)
            path = f"/inference.GRPCInferenceService/{method}"
            return answer.FromString(channel.unary_unary(path)(request.SerializeToString(), timeout=60))

        described = call("ModelMetadata", oip.ModelMetadataRequest(name="reflectance"), oip.ModelMetadataResponse)
        entry = described.inputs[0]
        dtype = {"UINT16": "<u2", "FP32": "<f4"}[entry.datatype]
        request = oip.ModelInferRequest(model_name="reflectance", raw_input_contents=[pixels.astype(dtype).tobytes()])
        request.inputs.add(name=entry.name, datatype=entry.datatype, shape=[1, *pixels.shape])
        answer = call("ModelInfer", request, oip.ModelInferResponse)
    position = [output.name for output in answer.outputs].index("scores")
    shape = answer.outputs[position].shape
    return np.moveaxis(np.frombuffer(answer.raw_output_contents[position], "<f4").reshape(shape)[0], 0, -1)


@pytest.mark.parametrize("kind", ["npy", "raw", "strips", "oip"])
def test_arrays_are_scored_by_their_own_values(  # noqa: PLR0917 (fixtures)
    kind: str, network: Network, models: Path, values: np.ndarray, server: Server, client: Client, tmp_path: Path
) -> None:
    """An array has the network's scores as a file, in a message, as a stream of rows, and as a tensor."""
    pixels = np.ascontiguousarray(values[:, EMPTY:])
    grid: np.ndarray | None = None
    match kind:
        case "npy":
            np.save(tmp_path / "scene.npy", pixels)
            grid, _ = local(models, tmp_path / "scene.npy")
        case "raw":
            grid = client.score(pixels, model="reflectance", grid=True).grid
        case "strips":
            with client.score_large(pixels, model="reflectance", grid=True) as run:
                grid = np.concatenate([scores for _, scores in run.bands()])
        case "oip":
            grid = inferred(server.address, pixels)
    assert grid is not None
    assert_allclose(grid, truth(network, pixels), atol=1e-5)


@pytest.mark.parametrize("kind", ["int16", "float32", "float64"])
def test_signed_and_fractional_values(
    kind: str, network: Network, values: np.ndarray, models: Path, tmp_path: Path
) -> None:
    """A float32 model takes files of these types, with NaN as no data; a uint16 model refuses them by name."""
    pixels = values.astype(kind)
    if kind != "int16":
        pixels[:, :EMPTY] = np.nan
    tags = [(42113, "s", 0, "0", True)] if kind == "int16" else []
    path = tmp_path / "scene.tif"
    options: Any = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(path, pixels, extratags=tags, metadata=None, **options)
    dtype = Scorer(models).model("reflectance").input.dtype
    if dtype == "uint16":
        with pytest.raises(ImageError, match=f"expected values of uint8 or uint16, .* got 4 bands of {kind}"):
            local(models, path)
    else:
        assert_allclose(local(models, path)[0], truth(network, values), atol=1e-5)


def test_chosen_bands_decide_what_has_data(network: Network, values: np.ndarray, models: Path, tmp_path: Path) -> None:
    """Bands are taken in the requested order, and nodata in an unused band does not mask a pixel."""
    five = np.dstack([np.zeros_like(values[..., :1]), values[..., ::-1]])
    path = tmp_path / "scene.tif"
    layout: Any = {"photometric": "minisblack", "planarconfig": "separate"}
    tifffile.imwrite(path, np.moveaxis(five, -1, 0), extratags=[(42113, "s", 0, "0", True)], metadata=None, **layout)
    with pytest.raises(ImageError, match=r"expected the model's 4 bands, got 5 bands .*--bands 1,2,3,4"):
        local(models, path)
    answer = Scorer(models).score(path, model="reflectance", grid=True, bands=[5, 4, 3, 2])
    assert answer.grid is not None
    assert_allclose(answer.grid, truth(network, values), atol=1e-5)


def test_scaled_images_keep_16_bits(network: Network, models: Path, tmp_path: Path) -> None:
    """At half the size, 16-bit values are interpolated without being cut to 8 bits."""
    pixels = noise(120, 120, 4).astype(np.uint16) * 39 + 1
    np.save(tmp_path / "scene.npy", pixels)
    grid = Scorer(models).score(tmp_path / "scene.npy", model="reflectance", grid=True, scales=["0.5x"]).grid
    bands = [Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(pixels, -1, 0)]
    halved = np.stack([np.asarray(band.resize((60, 60), Image.Resampling.BILINEAR)) for band in bands], axis=-1)
    assert grid is not None
    assert_allclose(grid, truth(network, halved), atol=1e-3)


@pytest.mark.parametrize("mode", ["dense", "crops"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_pixels_that_are_not_finite(models: Path, values: np.ndarray, value: float, mode: Any) -> None:  # noqa: ANN401
    """An array with NaN or infinity is refused with the position of the pixel; with a mask, it is scored."""
    scorer = Scorer(models)
    if scorer.model("reflectance").input.dtype != "float32":
        return  # integers are finite
    pixels = values[:, EMPTY:].astype(np.float32)
    pixels[41, 37, 2], pixels[50, 9, 1] = value, -value
    expected_message = f"expected finite pixels, got {'NaN' if np.isnan(value) else 'infinity'} at x 37, y 41; leave "
    with pytest.raises(ImageError, match=expected_message):
        scorer.score(pixels, model="reflectance", mode=mode, flip=True)
    mask = np.asarray(np.isfinite(pixels).all(axis=-1))
    answer = scorer.score(pixels, model="reflectance", mode=mode, grid=True, mask=mask)
    assert answer.grid is not None
    assert 0 < answer.scored == np.count_nonzero(np.isfinite(answer.grid[..., 0])) < answer.grid[..., 0].size


def test_an_image_without_data_is_refused(models: Path, values: np.ndarray, tmp_path: Path) -> None:
    """If every window has a missing pixel, the error speaks of missing pixels; with a mask, of the mask."""
    path, pixels = tmp_path / "scene.tif", values.copy()
    pixels[::20, ::20] = 0
    layout: Any = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, pixels, extratags=[(42113, "s", 0, "0", True)], **layout)
    scorer = Scorer(models)
    expected_message = r"expected at least one window without missing pixels \(GDAL_NODATA, NaN\), got none; choose"
    for call in (scorer.score, scorer.plan):
        with pytest.raises(ImageError, match=expected_message):
            call(path, model="reflectance")
        with pytest.raises(ImageError, match="mask: expected at least one window to score, got none"):
            call(path, model="reflectance", mask=np.ones(pixels.shape[:2], np.bool_))
