"""Torchvision's networks give the scores of every window by itself while windows share, with random weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from support.torch_networks import randomised

from converter.convert import convert_checkpoint
from converter.graph.sharing.share import share
from fullconv import Scorer

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # of PyTorch's exporter

SHARE = (
    "alexnet",
    "vgg11",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "googlenet",
    "inception_v3",
    "squeezenet1_1",
    "mobilenet_v2",
    "regnet_x_400mf",
    "convnext_tiny",
)
"""Networks for which mode shared is cheaper than crops at the native stride, in an image of 1024²."""
OTHERS = ("mnasnet1_0", "shufflenet_v2_x1_0")
OPTIONS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}


def build(name: str) -> "nn.Module":
    """Return a network whose scores of different windows differ."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net: nn.Module = randomised(torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {})))
    return net


@pytest.mark.parametrize("name", [*SHARE, *OTHERS])
def test_every_window_has_its_own_scores(name: str, tmp_path: Path) -> None:
    """Six windows at the native stride have the scores that PyTorch gives for each of them, to 1e-5."""
    import torch

    window, net = 299 if name == "inception_v3" else 224, build(name)
    version = tmp_path / "net" / "1"
    spec = convert_checkpoint(net, version, window=window, preprocess="unit", verify=1).spec
    stride = spec.vertical.stride
    pixels = np.random.default_rng(0).integers(0, 256, (window + stride, window + 2 * stride, 3), np.uint8)
    model = ir.load(version / "model.onnx")
    shared, _ = share(model, "NHWC", (window, window), {}, (stride, stride))
    ir.save(shared, version / "shared.onnx")
    session = ort.InferenceSession(version / "shared.onnx")
    grid = session.run(None, {"image": pixels[None], "stride": np.array([stride, stride])})[0][0]
    assert grid.shape == (1000, 2, 3)
    for row, col in np.ndindex(2, 3):
        crop = pixels[row * stride : row * stride + window, col * stride : col * stride + window]
        with torch.no_grad():
            expected = net(torch.from_numpy(np.moveaxis(crop / np.float32(255), -1, 0).copy())[None]).numpy()[0]
        assert_allclose(grid[:, row, col], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    with Scorer(tmp_path) as scorer:
        large = np.zeros((1024, 1024, 3), np.uint8)
        assert scorer.plan(large, model="net", mode="exact").mode == ("shared" if name in SHARE else "crops")
