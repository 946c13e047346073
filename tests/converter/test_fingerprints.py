"""Networks of torchvision and timm are recognised by their tensors, also without PyTorch, which then is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.paths import ROOT

from converter.errors import SourceError
from converter.sources import torch_recognised
from converter.sources.fingerprints import fingerprint, recognise_module
from converter.sources.read import read_source

NAME = "timm:test_resnet"
SHAPES = {
    key: tuple(shape)
    for key, shape in json.loads((ROOT / "tests" / "data" / "shapes_of_timm_test_resnet.json").read_text()).items()
}
"""Keys and shapes of the tensors of timm's test_resnet with five classes."""
HEAD = ("fc.weight", "fc.bias")


def test_the_number_of_classes_does_not_matter() -> None:
    """The network is recognised with any number of classes, and with a training script's prefix."""
    for classes in (1, 5, 1000):
        shapes = SHAPES | {"fc.weight": (classes, *SHAPES["fc.weight"][1:]), "fc.bias": (classes,)}
        assert recognise_module(shapes) == ("", (NAME,))
        lightning = {f"net.{key}": shape for key, shape in shapes.items()} | {"loss.weight": (classes,)}
        assert recognise_module(lightning) == ("net.", (NAME,))


def test_other_tensors_are_another_network() -> None:
    """A network with one tensor more, less, or of another shape is not recognised."""
    key = next(key for key in SHAPES if key not in HEAD)
    others = [SHAPES | {"extra.weight": (1,)}, {k: s for k, s in SHAPES.items() if k != key}, SHAPES | {key: (7,)}]
    assert [recognise_module(shapes) for shapes in others] == [("", ())] * 3
    assert recognise_module({}) == ("", ())


@pytest.mark.parametrize("prefix", ["", "model."], ids=["plain", "lightning"])
def test_another_head_does_not_matter(prefix: str) -> None:
    """A head of one fully connected layer may replace the network's own; several are refused, and the network named."""
    trunk = {key: shape for key, shape in SHAPES.items() if key not in HEAD}
    inputs = SHAPES["fc.weight"][1]
    one = {"fc.1.weight": (7, inputs), "fc.1.bias": (7,)}
    assert recognise_module({f"{prefix}{key}": shape for key, shape in {**trunk, **one}.items()}) == (prefix, (NAME,))
    two = {"fc.0.weight": (9, inputs), "fc.2.weight": (7, 9)}
    with pytest.raises(SourceError, match=rf"the head of {NAME}, got fc.0 \(linear {inputs}→9\), fc.2 \(linear 9→7\)"):
        recognise_module({f"{prefix}{key}": shape for key, shape in {**trunk, **two}.items()})


def test_fingerprints_ignore_order_and_counters() -> None:
    """The order of the tensors and the counters of batch normalisation, which old checkpoints lack, do not count."""
    plain = {key: shape for key, shape in reversed(SHAPES.items()) if not key.endswith("num_batches_tracked")}
    assert len(plain) < len(SHAPES)
    assert fingerprint(plain, HEAD) == fingerprint(SHAPES, HEAD)


def test_without_pytorch_the_refusal_names_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names the network, what to install, and the option that names it."""
    monkeypatch.setattr(torch_recognised, "is_installed", lambda _: False)
    tensors = {key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()}
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(SourceError) as caught:
        read_source(tmp_path / "net.safetensors", arch=None, window=None)
    message = str(caught.value)
    assert "has the tensors of timm:test_resnet" in message
    assert "pip install torch timm onnxscript" in message
    assert "--arch timm:test_resnet" in message
