"""Sources that need PyTorch or Keras, if the package is not installed."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.networks import UNPADDED, make_network

from converter.errors import SourceError
from converter.sources.read import read_source

DATA = Path(__file__).parents[1] / "data"
PACKAGES = {"torch": "torch torchvision onnxscript", "keras": "keras torch onnxscript"}
NEEDS = {
    "torchvision": ("net.safetensors", "torchvision:resnet50", "torch"),
    "factory": ("net.safetensors", "nets:build", "torch"),
    "pt2": ("net.pt2", None, "torch"),
    "keras": ("net.keras", None, "keras"),
    "h5": ("net.h5", None, "keras"),
}


@pytest.mark.parametrize(("name", "arch", "package"), NEEDS.values(), ids=NEEDS)
def test_missing_packages_are_named(
    name: str, arch: str | None, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing package is reported in one line with its use and what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    source = tmp_path / name
    source.write_bytes(make_network(tmp_path, UNPADDED).checkpoint.read_bytes())
    with pytest.raises(SourceError) as caught:
        read_source(source, arch=arch, window=None)
    reader = f"--arch {arch}" if arch else source
    assert str(caught.value) == f"{reader} needs {package}, which is not installed: pip install {PACKAGES[package]}"


def test_packages_that_do_not_load_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of incompatible packages is reported on one line."""
    import_module = importlib.import_module

    def fail(name: str) -> ModuleType:
        if name.startswith("torch"):
            raise RuntimeError("operator torchvision::nms\ndoes not exist")
        return import_module(name)

    network = make_network(tmp_path, UNPADDED)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(SourceError, match="which fails: operator torchvision::nms does not exist: pip install torch"):
        read_source(network.checkpoint, arch="torchvision:resnet50", window=None)


@pytest.mark.parametrize("name", ["net.pt2", "net.keras", "net.h5"])
def test_complete_networks_take_no_architecture(name: str, tmp_path: Path) -> None:
    """--arch with a file that holds its network is refused."""
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(SourceError, match="contains its network, got --arch vgg16; leave it out"):
        read_source(tmp_path / name, arch="vgg16", window=None)


def test_files_are_not_taken_for_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TOML file may have a colon in its name."""
    network = make_network(tmp_path, UNPADDED)
    monkeypatch.chdir(tmp_path)
    Path("nets:toml").write_text(UNPADDED, "utf-8")
    assert read_source(network.checkpoint, arch="nets:toml", window=None).window == (22, 26)
