"""Finds the head that a fine-tuned network has in place of its own, as after `net.fc = Sequential(Dropout, Linear)`.

A state_dict names only layers that have tensors. One fully connected layer is taken as the whole head, because Dropout
does nothing at inference. Between several fully connected layers there are activations that a state_dict does not
name: such a head is refused, and an architecture file states it (`architecture`, `base` and `replace`).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from converter.errors import SourceError, UnknownHeadError
from converter.sources.checkpoint import BATCHES
from converter.sources.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    Layer,
    LeakyRelu,
    Linear,
    WithTensors,
    tensor_keys,
)

OF_STACKS = (Linear, Activation, LeakyRelu, Dropout)
"""The layers of a head that may be replaced as a whole."""
NUMBER = re.compile(r"[0-9]{1,9}")
BARE_KEY = re.compile(r"[\w-]+")
"""Matches keys that TOML does not quote."""
FACTORY = (
    "name the function that makes the network (--arch mypackage.nets:build, which needs PyTorch), or export it to ONNX"
)
"""The way out for a head that is not known."""

Shapes = Mapping[str, tuple[int, ...]]
Kind = Literal["linear", "conv", "batchnorm"]


@dataclass(frozen=True)
class HeadLayer:
    """A layer of a head: its key, such as "fc.1", and the shapes of its tensors by name, such as "weight"."""

    key: str
    shapes: Shapes

    @property
    def kind(self) -> Kind | None:
        """The kind of the layer, which follows from its tensors; None for other layers."""
        names, weight = set(self.shapes), self.shapes.get("weight", ())
        rank = 0 if 0 in weight else len(weight)
        if names == set(BatchNorm.tensors):
            return "batchnorm" if rank == 1 else None
        if not {"weight"} <= names <= {"weight", "bias"}:
            return None
        return "linear" if rank == 2 else "conv" if rank == 4 else None

    @property
    def keys(self) -> list[str]:
        """The keys of its tensors."""
        return [f"{self.key}.{name}" for name in self.shapes]

    @property
    def has_bias(self) -> bool:
        """Whether the layer adds a bias."""
        return "bias" in self.shapes

    @property
    def sizes(self) -> str:
        """The numbers of inputs and outputs, such as "512→7"."""
        weight = self.shapes["weight"]
        return f"{weight[1]}→{weight[0]}" if len(weight) > 1 else str(weight[0])


@dataclass(frozen=True)
class Head:
    """The layers with tensors in the module, such as "fc", that takes the place of a network's last layers."""

    module: str
    layers: tuple[HeadLayer, ...]

    def only(self, kind: Kind, network: str, way_out: str) -> HeadLayer | None:
        """Return the only layer if it is of a kind; None for another layer, or if a layer is of no known kind.

        Raises UnknownHeadError, which names the network and the way out, for several layers between which there may be
        activations.
        """
        kinds = [layer.kind for layer in self.layers]
        if kinds == [kind]:
            return self.layers[0]
        if "linear" not in kinds or len(kinds) == 1 or not {"linear", "batchnorm"}.issuperset(kinds):
            return None
        got = ", ".join(f"{layer.key} ({layer.kind} {layer.sizes})" for layer in self.layers)
        raise UnknownHeadError(
            f"checkpoint: expected one Linear layer as {self.module}, the head of {network}, got {got}; a state_dict "
            f"does not hold the activations between them: {way_out}"
        )

    def note(self, layer: HeadLayer, last: str) -> tuple[str, ...]:
        """Return a note on the only layer, which replaces layers up to that with the key `last`."""
        if layer.key == self.module == last:
            return () if layer.has_bias else (f"{last} has no bias in the checkpoint",)
        if layer.key == self.module:
            return (f"{self.module} is one Linear layer ({layer.sizes}) in the checkpoint",)
        what = f"{self.module} computes only its layer {layer.key} ({layer.kind} {layer.sizes})"
        return (f"assumed that {what}: the checkpoint does not name layers without tensors, such as Dropout",)


def replaced_head(
    modules: Iterable[str], expected: Collection[str], shapes: Shapes, misfits: Collection[str] = ()
) -> Head | None:
    """Return the first of some modules outside of which a checkpoint has the network's tensors; None without one.

    `expected` are the keys of the network's tensors, `shapes` those of the checkpoint's, and `misfits` the keys of
    tensors that have another shape than in the network.
    """
    for module in modules:
        head = head_of(module, shapes)
        rest = {key for key in shapes if not is_within(key, module) and key not in misfits}
        if head.layers and rest == {key for key in expected if not is_within(key, module)}:
            return head
    return None


def head_of(module: str, shapes: Shapes) -> Head:
    """Return the layers of a checkpoint that belong to a module, in the order of their numbers."""
    layers = dict[str, dict[str, tuple[int, ...]]]()
    for key, shape in shapes.items():
        if is_within(key, module) and not key.endswith(BATCHES):
            layer, _, name = key.rpartition(".")
            layers.setdefault(layer, {})[name] = shape
    return Head(module, tuple(HeadLayer(key, layers[key]) for key in sorted(layers, key=_numbers)))


def is_within(key: str, module: str) -> bool:
    """Return whether a key belongs to a module, such as "fc.weight" and "fc.1.weight" to "fc"."""
    return key.startswith(f"{module}.")


def parent_of(module: str) -> str:
    """Return the module that a module is a part of, such as "classifier" for "classifier.6"; "" for the network."""
    return module.rpartition(".")[0]


def head_modules(layers: Sequence[Layer]) -> list[str]:
    """Return the modules of a network that a new head may replace: its last layer, and its fully connected layers."""
    last = _last(layers)
    parent = parent_of(last.key)
    span = [number for number, layer in enumerate(layers) if parent and _belongs(layer, parent)]
    is_stack = bool(span) and all(isinstance(layer, OF_STACKS) for layer in layers[span[0] :])
    return [last.key, parent] if is_stack else [last.key]


def with_own_head(layers: Sequence[Layer], shapes: Shapes, base: str) -> tuple[list[Layer], tuple[str, ...]]:
    """Return the layers of a shipped architecture, `base`, with the head of a checkpoint, and notes on it.

    The layers are unchanged if the checkpoint has their tensors, or other tensors besides those of a head. Raises
    UnknownHeadError for a head of several fully connected layers.
    """
    expected = set(tensor_keys(layers))
    misfits = {key for key, out in _fixed_outputs(layers) if shapes.get(key, (out,))[:1] != (out,)}
    last = _last(layers)
    head = replaced_head(head_modules(layers), expected, shapes, misfits)
    if head is None or (expected == set(shapes) and not misfits) or not isinstance(last, Linear | Conv):
        return list(layers), ()
    layer = head.only(last.op, base, f"{_in_a_file(head, base)}; or {FACTORY}")
    if layer is None:
        return list(layers), ()
    own = last.model_copy(update={"key": layer.key, "bias": layer.has_bias, "out": None})
    return replace_layers(layers, head.module, [own]), head.note(layer, last.key)


def replace_layers(layers: Sequence[Layer], module: str, own: Sequence[Layer]) -> list[Layer]:
    """Return layers with others in place of the first to the last of those that belong to a module.

    Raises ValueError if there is no such layer outside of blocks and branches.
    """
    places = [number for number, layer in enumerate(layers) if _belongs(layer, module)]
    if not places:
        raise ValueError(f"expected a layer of the base, such as {_last(layers).key}, got {module}")
    return [*layers[: places[0]], *own, *layers[places[-1] + 1 :]]


def _belongs(layer: Layer, module: str) -> bool:
    return isinstance(layer, WithTensors) and is_within(f"{layer.key}.", module)


def _last(layers: Sequence[Layer]) -> WithTensors:
    """Return the last layer with tensors; an architecture without such a layer has no head, and is refused."""
    for layer in reversed(layers):
        if isinstance(layer, WithTensors):
            return layer
    raise SourceError("arch: expected a layer with tensors, got none; list the network's layers")


def _fixed_outputs(layers: Sequence[Layer]) -> Iterator[tuple[str, int]]:
    """Yield the keys of weights of fully connected layers whose number of outputs is fixed, with this number."""
    for layer in layers:
        if isinstance(layer, Linear) and layer.out is not None:
            yield layer.tensor_keys[0], layer.out


def _in_a_file(head: Head, base: str) -> str:
    """Return the lines of an architecture file with this head, with ReLU before all but the first Linear layer."""
    entries = list[str]()
    for layer in head.layers:
        if layer.kind == "linear" and any("linear" in entry for entry in entries):
            entries.append('{ op = "relu" }')
        bias = "" if layer.has_bias else ", bias = false"
        entries.append(f'{{ op = "{layer.kind}", key = "{layer.key}"{bias} }}')
    module = head.module if BARE_KEY.fullmatch(head.module) else f'"{head.module}"'
    return (
        f'write a file for --arch (docs/architectures.md) with the lines base = "{base}" and replace.{module} = '
        f"[{', '.join(entries)}], where relu stands for your own activations"
    )


def _numbers(key: str) -> list[int]:
    """Return a key for sorting that compares the numbers in keys, and leaves names in their order."""
    return [int(part) if NUMBER.fullmatch(part) else 0 for part in key.split(".")]
