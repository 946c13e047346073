"""Plain names of networks for --arch, and the nearest names for a mistyped one."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.networks import UNPADDED, make_network

from converter.errors import SourceError
from converter.sources import names as module
from converter.sources.architecture import load_architecture
from converter.sources.names import LISTS, names_module, resolved_name
from converter.sources.read import read_source

LONG = "§" * 300
"""A name that is too long for a file."""


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("resnet18", "resnet_basic"),
        ("resnet34", "resnet_basic"),
        ("resnet50", "resnet"),
        ("wide_resnet101_2", "resnet"),
        ("resnext50_32x4d", "resnet"),
        ("densenet161", "densenet"),
        ("mobilenet_v2", "mobilenet_v2"),
        ("vgg16", "vgg16"),
        ("resnet_basic", "resnet_basic"),
    ],
)
def test_names_of_shipped_networks(name: str, architecture: str) -> None:
    """The names of torchvision's networks are names of the architecture files that describe them."""
    assert load_architecture(name).name == architecture
    assert resolved_name(name, {}) == name


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("resnet50d", "timm:resnet50d"),
        ("mobilenet_v3_small", "torchvision:mobilenet_v3_small"),
        ("torchvision:vgg16", "torchvision:vgg16"),
        ("nets:build", "nets:build"),
    ],
)
def test_names_of_libraries(name: str, meaning: str) -> None:
    """A name of torchvision or of timm alone means this library; names with a colon stay."""
    assert resolved_name(name, {}) == meaning


def test_names_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module and a name, of any length, mean a function, unless there is a file of this name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets:file").touch()
    names = ["nets:build", f"nets:{'n' * 300}", "nets:file", "nets"]
    assert [names_module(name) for name in names] == [True, True, False, False]


def test_the_tensors_choose_between_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """If both libraries have a network of the name, the tensors decide; if they cannot, the refusal lists both."""
    both = ("timm:efficientnet_b0", "torchvision:efficientnet_b0")
    with pytest.raises(SourceError, match="give --arch timm:efficientnet_b0 or --arch torchvision:efficientnet_b0"):
        resolved_name("efficientnet_b0", {})
    for network in both:
        monkeypatch.setattr(module, "recognise_module", lambda _, found=network: ("", (found, "timm:another")))
        assert resolved_name("efficientnet_b0", {}) == network


@pytest.mark.parametrize("other", ["torchvision:resnet34", "timm:resnet18d"], ids=["same file", "other file"])
def test_tensors_of_another_network(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """A name of torchvision is refused if the tensors are those of another network, even of the same family."""
    monkeypatch.setattr(module, "recognise_module", lambda _: ("", (other, "timm:another")))
    message = rf"arch: expected the tensors of resnet18, got those of {other} or timm:another; leave --arch out"
    with pytest.raises(SourceError, match=message):
        resolved_name("resnet18", {})
    assert resolved_name("resnet_basic", {}) == "resnet_basic"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", "expected the name of a network or a TOML file, got 'resnt18'; nearest: resnet18, "),
        ("ResNet-18", "got 'ResNet-18'; nearest: resnet18, "),
        ("EfficientNet_B0", "got 'EfficientNet_B0'; nearest: efficientnet_b0, "),
        ("§§§", "expected the name of a network or a TOML file, got '§§§'; docs/"),
        ("nets/resnt.toml", "expected a TOML file, got 'nets/resnt.toml', which is no file; nearest: nets/resnet.toml"),
        ("net/resnet.toml", "got 'net/resnet.toml', which is no file; the folder net does not exist"),
        ("vgg16.toml", "expected a TOML file, got 'vgg16.toml', which is no file; nearest: vgg16"),
        ("nets/§.toml", "got 'nets/§.toml', which is no file; docs/architectures.md lists"),
        ("nets", "got 'nets'; nearest: "),
        ("", "expected a TOML file, got '', which is no file"),
        (LONG, f"expected the name of a network or a TOML file, got '{LONG}'; docs/"),
        (f"{LONG}/a.toml", f"got '{LONG}/a.toml', which is no file; the folder {LONG} does not exist"),
    ],
    ids=lambda value: value[:40],
)
def test_mistyped_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    """The refusal is one line with the nearest names or files, and says where all names are listed."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "resnet.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        resolved_name(name, {})
    assert str(caught.value).startswith("arch: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith(LISTS) or ".toml" in name
    assert "\n" not in str(caught.value)


def test_files_and_folders_with_the_names_of_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is taken whatever its name; a folder that has a network's name does not hide the network."""
    network = make_network(tmp_path, UNPADDED)
    network.toml.rename(tmp_path / "resnet50d")
    (tmp_path / "resnest14d").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolved_name("resnet50d", {}) == "resnet50d"
    assert resolved_name("resnest14d", {}) == "timm:resnest14d"
    assert read_source(network.checkpoint, arch="resnet50d", window=None).original.graph.name == "unpadded"


def test_a_mistyped_name_of_a_checkpoint(tmp_path: Path) -> None:
    """read_source refuses the name before it builds a network."""
    save_file({"a.weight": np.zeros((1, 1), np.float32)}, tmp_path / "net.safetensors")
    with pytest.raises(SourceError, match="nearest: vgg16"):
        read_source(tmp_path / "net.safetensors", arch="vgg-16", window=None)
