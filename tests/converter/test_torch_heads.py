"""State_dicts of fine-tuned networks whose head was replaced, as in `net.fc = Sequential(Dropout, Linear)`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.torch_networks import check_scores, randomised

from converter.errors import SourceError
from converter.sources.read import read_source

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

WINDOW = (64, 64)


def torchvision_network(name: str) -> "nn.Module":
    """Return a network of torchvision with random weights."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    net: nn.Module = randomised(models.get_model(name, weights=None))
    return net


def timm_network(name: str) -> "nn.Module":
    """Return a network of timm with random weights."""
    import timm
    import torch

    torch.manual_seed(0)
    net: nn.Module = randomised(timm.create_model(name))
    return net


def lite_network(name: str) -> "nn.Module":
    """Return a network of efficientnet_lite_pytorch with random weights."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    net: nn.Module = randomised(EfficientNet.from_name(name))
    return net


def new_head(inputs: int, *, hidden: int = 0, bias: bool = True) -> "nn.Sequential":
    """Return a head of one Linear layer, or of two, with Dropout; for eval()."""
    from torch import nn

    first = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.2)] if hidden else [nn.Dropout(0.2)]
    return nn.Sequential(*first, nn.Linear(hidden or inputs, 7, bias=bias)).eval()


def changed(net: "nn.Module", module: str, head: "nn.Module") -> "nn.Module":
    """Return a network with another head, as training scripts put it in place of a module."""
    net.set_submodule(module, head)
    return net


def only_linear(inputs: int, *, bias: bool = True) -> "nn.Module":
    """Return one Linear layer as a head."""
    from torch import nn

    return nn.Linear(inputs, 7, bias=bias)


def only_convolution(inputs: int) -> "nn.Module":
    """Return a head of SqueezeNet: one 1×1 convolution, with Dropout."""
    from torch import nn

    return nn.Sequential(nn.Dropout(0.2), nn.Conv2d(inputs, 7, 1)).eval()


def named_layers(inputs: int) -> "nn.Module":
    """Return a Sequential whose layers have names."""
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(OrderedDict(drop=nn.Dropout(0.2), fc1=nn.Linear(inputs, 7))).eval()


SHIPPED = {
    "resnet18": (torchvision_network, "fc", 512, new_head),
    "resnet50": (torchvision_network, "fc", 2048, new_head),
    "resnext50_32x4d": (torchvision_network, "fc", 2048, named_layers),
    "wide_resnet50_2": (torchvision_network, "fc", 2048, lambda inputs: new_head(inputs, bias=False)),
    "mobilenet_v2": (torchvision_network, "classifier.1", 1280, new_head),
    "mobilenet_v2 without Dropout": (torchvision_network, "classifier", 1280, only_linear),
    "densenet121": (torchvision_network, "classifier", 1024, new_head),
    "squeezenet1_0": (torchvision_network, "classifier.1", 512, only_convolution),
    "squeezenet1_1": (torchvision_network, "classifier.1", 512, only_convolution),
    "vgg11_bn": (torchvision_network, "classifier.6", 4096, new_head),
    "vgg11": (torchvision_network, "classifier", 25088, new_head),
    "vgg13": (torchvision_network, "classifier", 25088, only_linear),
    "alexnet": (torchvision_network, "classifier.6", 4096, new_head),
    "alexnet without fc6": (torchvision_network, "classifier", 9216, new_head),
    "efficientnet-lite0": (lite_network, "_fc", 1280, new_head),
    "efficientnet-lite1": (lite_network, "_fc", 1280, new_head),
}
"""Networks that are read without PyTorch: their library, the replaced module, its inputs, and the new head."""
Case = tuple[Callable[[str], "nn.Module"], str, int, Callable[[int], "nn.Module"]]


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", "aux1, aux2"), ("inception_v3", "AuxLogits")])
def test_auxiliary_heads_are_left_out(tmp_path: Path, name: str, auxiliary: str) -> None:
    """Auxiliary heads run only in training, so that they may have other classes than the head."""
    import torch
    from torch import nn
    from torchvision import models

    torch.manual_seed(0)
    net = models.get_model(name, weights=None, transform_input=True, init_weights=False)
    net.fc = nn.Linear(net.fc.in_features, 5)
    randomised(net)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=(96, 96))
    check_scores(classifier, net, tmp_path)
    assert f"left out: {auxiliary}, which run only in training" in classifier.notes


@pytest.mark.parametrize(("name", "case"), SHIPPED.items(), ids=SHIPPED)
def test_one_layer_as_the_head(name: str, case: Case, tmp_path: Path) -> None:
    """A head of one fully connected layer is read without --arch; the scores are PyTorch's."""
    import torch

    make, module, inputs, head = case
    net = changed(make(name.split(maxsplit=1)[0]), module, head(inputs))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=None)
    check_scores(classifier, net, tmp_path)


LIBRARIES = {
    "efficientnet_b0": (torchvision_network, "classifier", 1280, new_head),
    "efficientnet_b0 inside": (torchvision_network, "classifier.1", 1280, new_head),
    "mobilenet_v3_small": (torchvision_network, "classifier.3", 1024, new_head),
    "mobilenet_v3_small whole": (torchvision_network, "classifier", 576, new_head),
    "mobilenet_v3_large whole": (torchvision_network, "classifier", 960, only_linear),
    "convnext_tiny": (torchvision_network, "classifier.2", 768, new_head),
    "regnet_x_400mf": (torchvision_network, "fc", 400, lambda inputs: new_head(inputs, bias=False)),
    "vit_b_16": (torchvision_network, "heads", 768, new_head),
    "test_resnet": (timm_network, "fc", 96, new_head),
    "regnetx_002": (timm_network, "head.fc", 368, only_linear),
    "convnext_atto": (timm_network, "head.fc", 320, named_layers),
}
"""Networks that PyTorch makes: their library, the replaced module, its inputs, and the new head."""
SLOW = ("vit_b_16",)


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(*entry, id=entry[0], marks=[pytest.mark.slow] * (entry[0] in SLOW)) for entry in LIBRARIES.items()],
)
def test_networks_of_libraries(name: str, case: Case, tmp_path: Path) -> None:
    """The networks of torchvision and timm are recognised beside such a head, and have PyTorch's scores."""
    import torch

    make, module, inputs, head = case
    net = changed(make(name.split(maxsplit=1)[0]), module, head(inputs))
    torch.save({f"model.{key}": value for key, value in net.state_dict().items()}, tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=None)
    check_scores(classifier, net, tmp_path)


def test_a_head_without_its_normalisation_is_refused(tmp_path: Path) -> None:
    """The refusal names the recognised network, the tensors of whose head the checkpoint lacks."""
    import torch
    from torch import nn

    net = changed(torchvision_network("convnext_tiny"), "classifier", nn.Sequential(nn.Flatten(1), nn.Linear(768, 7)))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(SourceError, match=r"the 182 tensors of torchvision:convnext_tiny, but it lacks classifier\.0"):
        read_source(tmp_path / "net.pth", arch=None, window=WINDOW)


WITHOUT_DROPOUT = {
    "efficientnet_b0": (
        (torchvision_network, "classifier", 1280, only_linear),
        "classifier is one Linear layer (1280→7) in the checkpoint",
    ),
    "regnet_x_400mf": (
        (torchvision_network, "fc", 400, lambda inputs: only_linear(inputs, bias=False)),
        "fc has no bias in the checkpoint",
    ),
}
"""Networks that PyTorch makes: as in LIBRARIES, and the note on the new head."""


@pytest.mark.parametrize(("name", "case"), WITHOUT_DROPOUT.items(), ids=WITHOUT_DROPOUT)
def test_notes_on_heads_of_libraries(name: str, case: tuple[Case, str], tmp_path: Path) -> None:
    """The notes say how a head of one Linear layer differs from that of the recognised network."""
    import torch

    (make, module, inputs, head), note = case
    net = changed(make(name), module, head(inputs))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=None)
    check_scores(classifier, net, tmp_path)
    assert classifier.notes[1:] == (note,)


@pytest.mark.parametrize("module", ["classifier", "classifier.3"], ids=["whole", "last layer"])
def test_networks_that_are_named(module: str, tmp_path: Path) -> None:
    """With --arch torchvision:NAME, one layer may also replace a head of several layers."""
    import torch

    head = new_head({"classifier": 576, "classifier.3": 1024}[module])
    net = changed(torchvision_network("mobilenet_v3_small"), module, head)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch="torchvision:mobilenet_v3_small", window=WINDOW)
    check_scores(classifier, net, tmp_path)
    assert f"assumed that {module} computes only its layer {module}.1 (linear" in classifier.notes[0]


STACKS = {
    "resnet18": ("fc", 512, "resnet_basic"),
    "mobilenet_v2": ("classifier", 1280, "mobilenet_v2"),
    "densenet121": ("classifier", 1024, "densenet"),
    "vgg11": ("classifier", 25088, "vgg11"),
    "vgg11_bn": ("classifier.6", 4096, "vgg11_bn"),
    "alexnet": ("classifier", 9216, "alexnet"),
}
"""Networks of torchvision, the replaced module, its inputs, and the architecture file."""


@pytest.mark.parametrize(("name", "case"), STACKS.items(), ids=STACKS)
def test_files_state_activations(name: str, case: tuple[str, int, str], tmp_path: Path) -> None:
    """Two layers are refused; the lines that the refusal gives, in an architecture file, give PyTorch's scores."""
    import torch

    module, inputs, base = case
    net = changed(torchvision_network(name), module, new_head(inputs, hidden=96))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(SourceError) as caught:
        read_source(tmp_path / "net.pth", arch=None, window=None)
    message = str(caught.value)
    assert f"expected one Linear layer as {module}, the head of {base}, got {module}.0 (linear {inputs}→96)" in message
    lines, _ = message.partition(f'base = "{base}"')[2].split(", where relu")
    toml = tmp_path / "net.toml"
    toml.write_text("\n".join([f'base = "{base}"', lines.removeprefix(" and ")]), "utf-8")
    check_scores(read_source(tmp_path / "net.pth", arch=str(toml), window=None), net, tmp_path)


@pytest.mark.parametrize("arch", [None, "torchvision:efficientnet_b0"], ids=["recognised", "named"])
def test_several_layers_need_a_factory(arch: str | None, tmp_path: Path) -> None:
    """Several layers as the head of a network of a library are refused; the way out is the function that makes it."""
    import torch

    net = changed(torchvision_network("efficientnet_b0"), "classifier", new_head(1280, hidden=96))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(SourceError) as caught:
        read_source(tmp_path / "net.pth", arch=arch, window=None)
    assert str(caught.value) == (
        "checkpoint: expected one Linear layer as classifier, the head of torchvision:efficientnet_b0, got "
        "classifier.0 (linear 1280→96), classifier.3 (linear 96→7); a state_dict does not hold the activations between "
        "them: name the function that makes the network (--arch mypackage.nets:build, which needs PyTorch), or export "
        "it to ONNX"
    )


def test_heads_of_other_inputs_are_refused(tmp_path: Path) -> None:
    """A head that does not fit the features of the network that --arch names is refused by its tensor."""
    import torch

    net = changed(torchvision_network("mobilenet_v3_small"), "classifier.3", new_head(99))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(SourceError, match=r"classifier\.3\.1\.weight: expected 1024 columns, .* got 99"):
        read_source(tmp_path / "net.pth", arch="torchvision:mobilenet_v3_small", window=WINDOW)
