"""Torchvision's networks with random weights agree with PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from support.conversion import SILENT
from support.pictures import noise
from support.torch_networks import randomised

from converter import convert as conversion
from converter.preprocessing import PRESETS
from converter.report import Report
from converter.sources.architecture import load_architecture, recognise
from converter.sources.read import read_source
from converter.verdict import verdict

if TYPE_CHECKING:
    from torch import nn

pytestmark = pytest.mark.torch

FAMILIES = ["alexnet", *(f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn"))]


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_architectures_have_torchvisions_tensors(family: str) -> None:
    """Torchvision's own state_dict has the keys of the shipped architecture, and is recognised by them."""
    import torch
    import torchvision

    with torch.device("meta"):
        keys = set(getattr(torchvision.models, family)(weights=None).state_dict())
    plain = {key for key in keys if not key.endswith("num_batches_tracked")}
    assert plain == set(load_architecture(family).keys())
    assert [found.name for found in recognise(keys)[1]] == [family]


def build(family: str, classes: int) -> "nn.Module":
    """Return a torchvision network with random statistics of batch normalisation and distinguishable scores."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net: nn.Module = randomised(getattr(torchvision.models, family)(weights=None, num_classes=classes))
    return net


def torch_scores(net: "nn.Module", pixels: np.ndarray) -> np.ndarray:
    """PyTorch's scores of windows (N, height, width, 3) uint8."""
    import torch

    with torch.no_grad():
        image = np.moveaxis(PRESETS["imagenet"].apply(pixels), -1, 1).copy()
        scores: np.ndarray = net(torch.from_numpy(image)).numpy()
    return scores


def convert(source: Path, target: Path, **options: Any) -> tuple[Report, ort.InferenceSession]:
    classifier = read_source(source, arch=None, window=None)
    report = conversion.convert(classifier, conversion.Request(target, windows=16, **options), SILENT)
    return report, ort.InferenceSession(target / "model.onnx")


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    """Check that scores are equal to 1e-4 of the largest score."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("family", "classes"), [("vgg16", 1000), ("alexnet", 1000), ("vgg11_bn", 7)])
def test_state_dicts(family: str, classes: int, tmp_path: Path) -> None:
    """A .pth, read without PyTorch, gives the network's scores at 224×224, a 6×6 grid at 384×384, and is not exact."""
    import torch

    net = build(family, classes)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    report, session = convert(tmp_path / "weights.pth", tmp_path / "models" / family / "1")
    window = noise(224, 224, 3)[None]
    (native,) = session.run(None, {"image": window})
    assert native.shape == (1, classes, 1, 1)
    assert_close(native[:, :, 0, 0], torch_scores(net, window))
    (grid,) = session.run(None, {"image": noise(384, 384, 3)[None]})
    assert grid.shape == (1, classes, 6, 6)
    parity = report.spec.parity[0]
    assert not parity.exact
    assert max(parity.interior.relative_l2, parity.border.relative_l2) > 0.01
    assert verdict(report.spec, 0).startswith("dense differs from crops, since the network is padded")
    assert report.rewrites[0].now.startswith(f"Conv {'6×6, 256' if family == 'alexnet' else '7×7, 512'}→4096")


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("family", ["alexnet", "resnet18"])
@pytest.mark.filterwarnings("ignore")  # PyTorch's exporters warn about their own deprecation
def test_exports(family: str, dynamo: bool, tmp_path: Path) -> None:  # noqa: FBT001 (a parameter of the test)
    """Files of both of PyTorch's exporters give PyTorch's scores of 224×224 pixels, and a grid of larger images."""
    import torch

    net = build(family, 10)
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (torch.rand(1, 3, 224, 224),), path, dynamo=dynamo)
    _, session = convert(path, tmp_path / "models" / "net" / "1", preprocess="imagenet")
    window = noise(224, 224, 3)[None]
    assert_close(session.run(None, {"image": window})[0][:, :, 0, 0], torch_scores(net, window))
    assert session.run(None, {"image": noise(288, 416, 3)[None]})[0].shape == (1, 10, 3, 7)
