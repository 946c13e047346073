"""Networks with random weights, which other programs of this folder measure."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from converter import convert as conversion
from converter.sources.architecture import Architecture, load_architecture
from converter.sources.layers import Conv, GlobalAvgPool, Linear, MaxPool
from converter.sources.read import read_source
from service.engine.repository import ModelRepository, StoredModel

if TYPE_CHECKING:
    from torch import nn

OPTIONS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}
"""Options of networks of torchvision that have auxiliary heads."""


def random_checkpoint(architecture: Architecture, path: Path, classes: int = 1000) -> None:
    """Write random weights that keep activations near 1, for a sequence of layers."""
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.float32]] = {}
    shape: tuple[int, ...] = (architecture.channels, *architecture.window)
    for layer in architecture.layers:
        match layer:
            case Conv():
                out = layer.out or classes
                tensors |= random_layer(layer.tensor_keys, (out, shape[0], layer.kernel, layer.kernel), rng)
                shape = (out, *sizes(layer, shape))
            case MaxPool():
                shape = (shape[0], *sizes(layer, shape))
            case GlobalAvgPool():
                shape = shape[:1]
            case Linear():
                tensors |= random_layer(layer.tensor_keys, (layer.out or classes, int(np.prod(shape))), rng)
                shape = (layer.out or classes,)
    save_file(tensors, path)


def random_layer(
    keys: tuple[str, ...], shape: tuple[int, ...], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Return a random weight of this shape, and a bias of zeros."""
    weight = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return dict(zip(keys, (weight, np.zeros(shape[0], np.float32)), strict=True))


def sizes(layer: Conv | MaxPool, shape: tuple[int, ...]) -> Iterator[int]:
    """Return height and width of the output of a convolution or pool."""
    return ((size + 2 * int(layer.pad) - layer.kernel) // layer.stride + 1 for size in shape[1:])


def convert(arch: str, folder: Path, *, strides: tuple[int, ...] = (), classes: int = 1000) -> StoredModel:
    """Convert a network with random weights, of a shipped architecture or of a TOML file; returns the model."""
    architecture = load_architecture(arch)
    random_checkpoint(architecture, folder / "weights.safetensors", classes)
    classifier = read_source(folder / "weights.safetensors", arch=arch, window=None)
    silent = conversion.Progress(step=lambda *_: None, advance=lambda: None)
    request = conversion.Request(folder / architecture.name / "1", strides=strides)
    report = conversion.convert(classifier, request, silent)
    print(f"{architecture.name}: {report.document()['verdict']}")
    return ModelRepository(folder).open(architecture.name, "1")


def random_network(name: str) -> "nn.Module":
    """Return an architecture of torchvision with random weights and statistics of batch normalisation."""
    import torch  # noqa: PLC0415 (after --preload)
    import torchvision  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 2)
    return network
