"""Gives a module of PyTorch the head of a checkpoint, as training scripts do: `net.fc = Sequential(Dropout, Linear)`.

`heads` says which heads are determined by their tensors.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.sources.checkpoint import BATCHES
from converter.sources.heads import FACTORY, HeadLayer, is_within, parent_of, replaced_head

if TYPE_CHECKING:
    import torch

STACKS = ("linear", "activation", "dropout")
"""Modules of torch.nn whose layers do nothing but multiply, act on single numbers, or drop them."""

Tensors = Mapping[str, NDArray[np.generic]]


def fit_head(network: "torch.nn.Module", tensors: Tensors, name: str) -> tuple[Tensors, tuple[str, ...]]:
    """Give a network the checkpoint's head, if only the head differs; returns the tensors to load, and notes.

    Raises UnknownHeadError for a head of several fully connected layers, SourceError for another number of inputs.
    """
    own = {key: tuple(value.shape) for key, value in network.state_dict().items() if not key.endswith(BATCHES)}
    shapes = {key: tensor.shape for key, tensor in tensors.items() if not key.endswith(BATCHES)}
    if own == shapes or not (modules := list(_head_modules(network))):
        return tensors, ()
    misfits = {key for key, shape in own.items() if shapes.get(key, shape) != shape}
    head = replaced_head(modules, own, shapes, misfits)
    layer = None if head is None else head.only("linear", name, FACTORY)
    if head is None or layer is None:
        return tensors, ()
    _replace(network, head.module, layer)
    moved = {
        key.replace(layer.key, head.module, 1) if is_within(key, layer.key) else key: tensors[key] for key in tensors
    }
    return moved, head.note(layer, modules[0])


def _head_modules(network: "torch.nn.Module") -> Iterator[str]:
    """Yield the last fully connected layer of a network, and the module of such layers of which it is a part."""
    import torch  # noqa: PLC0415 (optional)

    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    if not names:
        return
    yield names[-1]
    parts = network.get_submodule(parent := parent_of(names[-1]))
    if parent and isinstance(parts, torch.nn.Sequential):
        own = [part for part in parts.modules() if part is not parts]
        if all(type(part).__module__.rpartition(".")[2] in STACKS for part in own):
            yield parent


def _replace(network: "torch.nn.Module", module: str, layer: HeadLayer) -> None:
    """Put an untrained Linear layer in place of a head; raises SourceError if the head has other inputs."""
    import torch  # noqa: PLC0415 (optional)

    outputs, inputs = layer.shapes["weight"]
    first = next(part for part in network.get_submodule(module).modules() if isinstance(part, torch.nn.Linear))
    if inputs != first.in_features:
        raise SourceError(
            f"checkpoint: {layer.key}.weight: expected {first.in_features} columns, the inputs of {module}, got "
            f"{inputs}; name the checkpoint's network with --arch"
        )
    network.set_submodule(module, torch.nn.Linear(inputs, outputs, bias=layer.has_bias))
