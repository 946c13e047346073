"""State_dicts of torchvision's and timm's networks are read without --arch, and have the scores of PyTorch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.torch_networks import check_scores, randomised

from converter.errors import SourceError
from converter.sources.architecture import recognise
from converter.sources.checkpoint import read_checkpoint
from converter.sources.fingerprints import recognise_module
from converter.sources.read import read_source
from converter.sources.torch_recognised import read_recognised

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

FAMILIES = ["resnet*", "resnext*", "regnet*", "efficientnet*", "mobilenet*"]
FAMILIES += ["convnext*", "densenet*", "res2net*", "hrnet*", "dla*"]
"""The largest families of convolutional networks of timm."""
AMBIGUOUS = "test_efficientnet_gn"
"""A network of timm whose tensors are those of another network too, which computes something else."""


def test_a_network_of_timm(tmp_path: Path) -> None:
    """A fine-tuned network in a Lightning checkpoint is recognised; window and preprocessing are timm's."""
    import timm
    import torch

    net = randomised(timm.create_model("test_resnet", num_classes=7))
    tensors = {f"model.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": tensors | {"metric.total": torch.zeros(1)}}, tmp_path / "last.ckpt")
    classifier = read_source(tmp_path / "last.ckpt", arch=None, window=None)
    check_scores(classifier, net, tmp_path)
    assert classifier.window == net.pretrained_cfg["input_size"][1:]
    assert any("timm:test_resnet" in note for note in classifier.notes)
    assert any("metric.total" in note for note in classifier.notes)


def test_a_network_of_torchvision(tmp_path: Path) -> None:
    """A bare state_dict of a network that no architecture file describes."""
    import torch
    from torchvision import models

    net = randomised(models.mnasnet0_5(num_classes=4))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=(64, 64))
    check_scores(classifier, net, tmp_path)
    assert "recognised as torchvision:mnasnet0_5" in classifier.notes[0]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_plain_names(library: str, tmp_path: Path) -> None:
    """A name that both libraries have means the network whose tensors the checkpoint has."""
    import timm
    import torch
    from torchvision import models

    make = {"torchvision": models.get_model, "timm": timm.create_model}[library]
    net = randomised(make("efficientnet_b0", num_classes=4))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    check_scores(read_source(tmp_path / "net.pth", arch="efficientnet_b0", window=(64, 64)), net, tmp_path)


@pytest.mark.parametrize(("name", "other"), [("resnet18", "resnet34"), ("vgg11", "vgg13")], ids=["family", "file"])
def test_plain_names_of_other_networks(name: str, other: str, tmp_path: Path) -> None:
    """A name that needs no PyTorch is refused for the tensors of another network."""
    import torch
    from torchvision import models

    torch.save(models.get_model(other, num_classes=4).state_dict(), tmp_path / "net.pth")
    with pytest.raises(SourceError, match=rf"expected the tensors of {name}, got those of torchvision:{other}"):
        read_source(tmp_path / "net.pth", arch=name, window=None)
    read_source(tmp_path / "net.pth", arch=other, window=None)


def test_grey_networks_of_timm(tmp_path: Path) -> None:
    """--arch timm:NAME takes the numbers of classes and of channels from the checkpoint."""
    import timm
    import torch

    net = randomised(timm.create_model("test_resnet", num_classes=2, in_chans=1))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    check_scores(read_source(tmp_path / "net.pth", arch="timm:test_resnet", window=(96, 96)), net, tmp_path)


def test_networks_with_equal_tensors_are_asked_for(tmp_path: Path) -> None:
    """If networks with these tensors give different scores, the refusal lists them; a chosen one is read."""
    import timm
    import torch

    net = randomised(timm.create_model(AMBIGUOUS, num_classes=3))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        SourceError,
        match=rf"scores or expect other pixels; choose --arch timm:{AMBIGUOUS} or --arch",
    ):
        read_source(tmp_path / "net.pth", arch=None, window=None)
    check_scores(read_source(tmp_path / "net.pth", arch=f"timm:{AMBIGUOUS}", window=None), net, tmp_path)


def test_networks_that_are_the_same_need_no_choice(tmp_path: Path) -> None:
    """If networks with these tensors give the same scores, the first is taken."""
    import timm
    import torch

    net = randomised(timm.create_model("test_resnet", num_classes=3))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    names = ("timm:test_resnet", "timm:test_resnet.r160_in1k")
    check_scores(read_recognised(read_checkpoint(tmp_path / "net.pth"), names, None), net, tmp_path)


@pytest.mark.parametrize("name", ["test_resnett", "nonsense"])
def test_unknown_names_are_refused(tmp_path: Path, name: str) -> None:
    """The refusal names the nearest network."""
    import torch

    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(SourceError, match=rf"arch: timm has no classifier '{name}'; expected (test_resnet|resnet50d)"):
        read_source(tmp_path / "net.pth", arch=f"timm:{name}", window=None)


def networks() -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Yield the names and shapes of the tensors of torchvision's classifiers and of timm's largest families."""
    import timm
    import torch
    from torchvision import models

    for name in models.list_models(module=models):
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            net = models.get_model(name, num_classes=5)
        yield f"torchvision:{name}", {key: tuple(value.shape) for key, value in net.state_dict().items()}
    for name in timm.list_models(FAMILIES, exclude_filters=["regnet*", "*_enc"]):
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=5)
        yield f"timm:{name}", {key: tuple(value.shape) for key, value in net.state_dict().items()}


def test_all_networks_are_recognised() -> None:
    """Every classifier of torchvision, and every network of timm's largest families, is recognised by its tensors."""
    count = 0
    for name, shapes in networks():
        _, names = recognise_module(shapes)
        assert name in names, name
        count += 1
    assert count > 300


def test_base_installation_recognises() -> None:
    """Architecture files describe these families, so that PyTorch is not needed."""
    import torch
    from torchvision import models

    for name in ("resnet50", "mobilenet_v2", "densenet121", "squeezenet1_1", "vgg16", "alexnet"):
        with torch.device("meta"):
            keys = models.get_model(name, num_classes=5).state_dict().keys()
        _, architectures = recognise(keys)
        assert architectures, name
