"""Builds a classifier in ONNX from an architecture and the tensors of a checkpoint.

Each layer becomes the operator of the same name, and a fully connected layer becomes a Gemm. Therefore later steps
treat a checkpoint like a file of any exporter. Sizes of maps are those of one window, so that paddings are numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError, UnknownHeadError, UnknownTensorsError
from converter.sources.architecture import Architecture
from converter.sources.checkpoint import BATCHES, Checkpoint
from converter.sources.classifier import Classifier
from converter.sources.heads import Shapes, is_within, parent_of, with_own_head
from converter.sources.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Layer,
    LeakyRelu,
    Linear,
    Lrn,
    MaxPool,
    PRelu,
    tensor_keys,
)
from converter.sources.onnx_file import check_input

OPSET = 19
IR_VERSION = 9
SHOWN_KEYS = 3
"""Number of missing and of unknown tensors that an error names."""
DEFAULT_ACTIVATION = "softmax"
ACTIVATIONS = {
    "relu": "Relu",
    "elu": "Elu",
    "selu": "Selu",
    "mish": "Mish",
    "hardswish": "HardSwish",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
}
"""Operators of ONNX that compute an activation as PyTorch does, with their default attributes."""
OF_ANY_RANK = (Activation, LeakyRelu, PRelu, Dropout, BatchNorm, Add)
"""Layers that follow maps as well as vectors."""

Tensors = Mapping[str, NDArray[np.generic]]


def build_recognised(
    checkpoint: Checkpoint, architectures: Sequence[Architecture], window: tuple[int, int] | None
) -> Classifier:
    """Build the only one of several networks that the tensors fit.

    Raises SourceError if none or several fit, or if several fit except for their head.
    `window` is (height, width) in pixels; None stands for the window of each architecture.
    """
    results = dict[str, Classifier | SourceError]()
    for architecture in architectures:
        try:
            results[architecture.name] = build_classifier(checkpoint, architecture, window or architecture.window)
        except SourceError as error:
            results[architecture.name] = error
    fitting = [name for name, result in results.items() if isinstance(result, Classifier)]
    fitting = fitting or [name for name, result in results.items() if isinstance(result, UnknownHeadError)]
    if len(fitting) > 1:
        choices = " or ".join(f"--arch {name}" for name in fitting)
        raise SourceError(
            f"arch: expected tensors that fit one architecture, got tensors that fit {' and '.join(fitting)}; choose "
            f"{choices}"
        )
    result = results[fitting[0]] if fitting else next(iter(results.values()))
    if isinstance(result, SourceError):
        raise result
    return result


def build_classifier(checkpoint: Checkpoint, architecture: Architecture, window: tuple[int, int]) -> Classifier:
    """Build the network for windows of (height, width) pixels.

    Raises SourceError if the tensors do not fit it, or if the window is too large for a test run.
    """
    check_input("image", (1, architecture.channels, *window))
    shapes = {key: tensor.shape for key, tensor in checkpoint.tensors.items() if not key.endswith(BATCHES)}
    layers, notes = architecture.layers_for(checkpoint.tensors), tuple[str, ...]()
    if architecture.base:
        layers, notes = with_own_head(layers, shapes, architecture.base)
    expected, got = list(tensor_keys(layers)), set(shapes)
    check_keys(architecture.name, expected, sorted(set(expected) - got), sorted(got.difference(expected)))
    if architecture.base:
        _check_channels(architecture, layers, shapes)
    network = _Network(checkpoint.tensors, (architecture.channels, *window))
    network.add_all(layers)
    model = network.model(architecture.name)
    return Classifier(
        original=model,
        model=model.clone(),
        window=window,
        preprocess=architecture.preprocess,
        activation=architecture.activation or DEFAULT_ACTIVATION,
        labels=architecture.labels,
        source=checkpoint.source,
        notes=notes,
    )


def _check_channels(architecture: Architecture, layers: Sequence[Layer], shapes: Shapes) -> None:
    """Raise SourceError if a network that is known takes images of another number of channels in the checkpoint."""
    first = next((layer for layer in layers if isinstance(layer, Conv)), None)
    if first is None or first.groups != 1:
        return
    key = first.tensor_keys[0]
    _, channels, *kernel = (*shapes[key], 0, 0)
    if channels != architecture.channels and kernel[:2] == [first.kernel] * 2:
        raise SourceError(
            f"checkpoint: {key}: expected {architecture.channels} input channels, got {channels}; write a file for "
            f'--arch (docs/architectures.md) with the lines base = "{architecture.base}", channels = {channels} and '
            'preprocess = "unit", or the preprocessing with which it was trained'
        )


def check_keys(name: str, expected: Sequence[str], missing: Sequence[str], unknown: Sequence[str]) -> None:
    """Raise UnknownTensorsError if a checkpoint lacks some of the network's tensors, or has other tensors.

    `expected` are the keys of the network, with those of its head at the end.
    """
    if missing or unknown:
        faults = [f"lacks {_listed(missing)}"] if missing else []
        faults += [f"also has {_listed(unknown)}"] if unknown else []
        raise UnknownTensorsError(
            f"checkpoint: expected the {len(expected)} tensors of {name}, but it {' and '.join(faults)}; "
            f"{_way_out(expected, missing, unknown)}"
        )


def _way_out(expected: Sequence[str], missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Return what to do about tensors that are missing or unknown."""
    if not missing:
        return f"leave {_listed(unknown)} out of the file, or name another network with --arch"
    head = parent_of(expected[-1])
    if not unknown and set(missing) == {key for key in expected if is_within(key, head)}:
        return f"the checkpoint has no head ({head}); convert the classifier, not its backbone"
    return "save the state_dict of the whole network, or name another network with --arch"


def _listed(keys: Sequence[str]) -> str:
    """Return some of several keys, separated by commas."""
    return f"{', '.join(keys[:SHOWN_KEYS])}{' …' if len(keys) > SHOWN_KEYS else ''}"


@dataclass
class _Network:
    """A graph that is built layer by layer; `shape` of its last value is (channels, height, width) or (features,)."""

    tensors: Tensors
    shape: tuple[int, ...]
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.input = ir.val("input", ir.DataType.FLOAT, ["N", *self.shape])
        self.end = self.input

    def add_all(self, layers: Sequence[Layer]) -> None:
        """Append layers; raises SourceError if one does not fit the layers before it or its tensors."""
        for layer in layers:
            rank = 1 if isinstance(layer, Linear) else len(self.shape) if isinstance(layer, OF_ANY_RANK) else 3
            if len(self.shape) != rank:
                raise SourceError(
                    f"arch: {layer.op} cannot follow a shape of {self.shape}; check the order of the layers"
                )
            self._append(layer)

    def model(self, name: str) -> ir.Model:
        """Return the finished network: input float32 (N, channels, height, width), output (N, classes)."""
        if len(self.shape) != 1:
            raise SourceError(f"arch: {name} ends in a shape of {self.shape}, expected (classes,); end it in linear")
        self.end.name, self.end.shape, self.end.dtype = "output", ir.Shape(["N", *self.shape]), ir.DataType.FLOAT
        graph = ir.Graph(
            [self.input],
            [self.end],
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="fullconv")

    @singledispatchmethod
    def _append(self, layer: Layer) -> None:
        """Append a layer without effect; other layers have methods of their own."""
        assert isinstance(layer, Dropout)  # noqa: S101 (every other kind is registered below)

    @_append.register
    def _batch_norm(self, layer: BatchNorm) -> None:
        weights = [self._add_tensor(key, self.shape[:1]) for key in layer.tensor_keys]
        self._add_node("BatchNormalization", weights, self.shape, epsilon=layer.eps)

    @_append.register
    def _leaky_relu(self, layer: LeakyRelu) -> None:
        self._add_node("LeakyRelu", [], self.shape, alpha=layer.slope)

    @_append.register
    def _pool(self, layer: MaxPool | AvgPool) -> None:
        self._add_windowed("MaxPool" if layer.op == "maxpool" else "AveragePool", [], layer, self.shape[0])

    @_append.register
    def _global_pool(self, layer: GlobalAvgPool | GlobalMaxPool) -> None:
        op = "GlobalMaxPool" if layer.op == "globalmaxpool" else "GlobalAveragePool"
        self._add_node(op, [], (self.shape[0], 1, 1))

    @_append.register
    def _flatten(self, _: Flatten) -> None:
        self._add_node("Flatten", [], (int(np.prod(self.shape)),), axis=1)

    @_append.register
    def _branches(self, layer: Add | Concat) -> None:
        """Append branches, each of which begins with the value before them, and their sum or concatenation."""
        before, made = (self.end, self.shape), list[tuple[ir.Value, tuple[int, ...]]]()
        for branch in layer.branches:
            self.end, self.shape = before
            self.add_all(branch)
            made.append((self.end, self.shape))
        shapes = {shape[isinstance(layer, Concat) :] for _, shape in made}
        (self.end, self.shape), *others = made
        if len(shapes) > 1:
            if isinstance(layer, Add) and layer.if_same_shape:
                return
            got = ", ".join(str(shape) for _, shape in made)
            raise SourceError(f"arch: {layer.op}: expected branches that end in the same size, got {got}")
        if isinstance(layer, Concat):
            channels = sum(shape[0] for _, shape in made)
            self._add_node("Concat", [value for value, _ in others], (channels, *self.shape[1:]), axis=1)
            return
        for value, _ in others:
            self._add_node("Add", [value], self.shape)

    @_append.register
    def _activation(self, layer: Activation) -> None:
        """Append an activation; those without an operator of ONNX are composed of several."""
        before = self.end
        match layer.op:
            case "relu6":
                self._add_node("Clip", [self._number(0.0), self._number(6.0)], self.shape)
            case "silu":
                self._add_node("Sigmoid", [], self.shape)
                self._add_node("Mul", [before], self.shape)
            case "gelu":
                self._add_node("Mul", [self._number(math.sqrt(0.5))], self.shape)
                self._add_node("Erf", [], self.shape)
                self._add_node("Add", [self._number(1.0)], self.shape)
                self._add_node("Mul", [before], self.shape)
                self._add_node("Mul", [self._number(0.5)], self.shape)
            case "hardsigmoid":
                self._add_node("HardSigmoid", [], self.shape, alpha=1 / 6)
            case _:
                self._add_node(ACTIVATIONS[layer.op], [], self.shape)

    @_append.register
    def _prelu(self, layer: PRelu) -> None:
        (key,) = layer.tensor_keys
        shape = (1,) if self.tensors[key].shape == (1,) else self.shape[:1]
        slopes = self._add_tensor(key, shape, (*shape, *[1] * (len(self.shape) - 1)))
        self._add_node("PRelu", [slopes], self.shape)

    @_append.register
    def _conv(self, layer: Conv) -> None:
        channels, out = self.shape[0], self._output_count(layer)
        groups = self._groups(layer) if layer.groups == "any" else layer.groups
        if channels % groups or out % groups:
            raise SourceError(f"arch: conv of {groups} groups cannot divide {channels} channels into {out}")
        shape = (out, channels // groups, layer.kernel, layer.kernel)
        self._add_windowed("Conv", self._weights_and_bias(layer, shape), layer, out, group=groups)

    def _groups(self, layer: Conv) -> int:
        """Return the groups that the shape of the weights shows, at least 1."""
        shape = self.tensors[layer.tensor_keys[0]].shape
        return max(1, self.shape[0] // shape[1]) if len(shape) == 4 and shape[1] else 1

    def _add_windowed(
        self, op: str, weights: list[ir.Value], layer: Conv | MaxPool | AvgPool, channels: int, **attributes: int
    ) -> None:
        """Append a layer of (size + pads − kernel) / stride + 1 windows per axis, rounded down, or up with `ceil`.

        ONNX rounds down; with `ceil` it gets padding on the far side, for windows that reach over the edge.
        """
        pad, ceil = 0 if isinstance(layer, AvgPool) else layer.pad, not isinstance(layer, Conv) and layer.ceil
        sizes, before, after = list[int](), list[int](), list[int]()
        for size in self.shape[1:]:
            if pad == "same":
                count = -(-size // layer.stride)
                both = max(0, (count - 1) * layer.stride + layer.kernel - size)
                before.append(both // 2)
                after.append(both - both // 2)
            else:
                room = size + 2 * pad - layer.kernel
                count = (-(-room // layer.stride) if ceil else room // layer.stride) + 1
                count -= ceil and (count - 1) * layer.stride >= size + pad
                before.append(pad)
                after.append(max(pad, (count - 1) * layer.stride + layer.kernel - size - pad))
            sizes.append(count)
        if min(sizes) < 1 or (max(before) >= layer.kernel and not isinstance(layer, Conv)):
            raise SourceError(
                f"arch: {layer.op} of {layer.kernel}×{layer.kernel} does not fit a map of {self.shape[1:]}"
            )
        self._add_node(
            op,
            weights,
            (channels, *sizes),
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[*before, *after],
            **attributes,
        )

    @_append.register
    def _lrn(self, layer: Lrn) -> None:
        if layer.region == "channels":
            self._add_node("LRN", [], self.shape, size=layer.size, alpha=layer.alpha, beta=layer.beta, bias=layer.bias)
            return
        image = self.end
        self._add_node("Mul", [image], self.shape)
        kernel, pads = [layer.size] * 2, [layer.size // 2] * 4
        self._add_node("AveragePool", [], self.shape, kernel_shape=kernel, pads=pads, count_include_pad=1)
        for op, number in (("Mul", layer.alpha), ("Add", layer.bias), ("Pow", -layer.beta)):
            self._add_node(op, [self._number(number)], self.shape)
        self._add_node("Mul", [image], self.shape)

    @_append.register
    def _adaptive_pool(self, layer: AdaptiveAvgPool) -> None:
        """Append an AveragePool if the map divides evenly, and nothing if the map has the size already."""
        channels, height, width = self.shape
        if height % layer.size or width % layer.size:
            raise SourceError(
                f"window: the map before adaptiveavgpool is {height}×{width}, expected a multiple of {layer.size} on "
                "each side; leave --window at the size that the network was trained on"
            )
        steps = [height // layer.size, width // layer.size]
        if steps != [1, 1]:
            self._add_node("AveragePool", [], (channels, layer.size, layer.size), kernel_shape=steps, strides=steps)

    @_append.register
    def _linear(self, layer: Linear) -> None:
        features = self._output_count(layer)
        self._add_node("Gemm", self._weights_and_bias(layer, (features, *self.shape)), (features,), transB=1)

    def _output_count(self, layer: Conv | Linear) -> int:
        return layer.out or max((1, *self.tensors[layer.tensor_keys[0]].shape[:1]))

    def _weights_and_bias(self, layer: Conv | Linear, shape: tuple[int, ...]) -> list[ir.Value]:
        """Return the layer's weights, which have this shape, and its bias if it has one."""
        return [self._add_tensor(key, kind) for key, kind in zip(layer.tensor_keys, (shape, shape[:1]), strict=False)]

    def _add_tensor(self, key: str, shape: tuple[int, ...], reshaped: tuple[int, ...] | None = None) -> ir.Value:
        """Add a tensor, which must have a shape, in this or another shape; raises SourceError."""
        tensor = self.tensors[key]
        if tensor.shape != shape:
            raise SourceError(
                f"checkpoint: {key}: expected shape {shape}, got {tensor.shape}; check --arch and --window"
            )
        if tensor.dtype != np.float32:
            raise SourceError(f"checkpoint: {key}: expected floating-point numbers, got {tensor.dtype}")
        return self._add_constant(key, np.ascontiguousarray(tensor).reshape(reshaped or shape))

    def _number(self, number: float) -> ir.Value:
        return self._add_constant(f"number_{len(self.initializers)}", np.array(number, np.float32))

    def _add_constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        value = ir.val(name, ir.DataType.FLOAT, array.shape, const_value=ir.tensor(array, name=name))
        self.initializers.append(value)
        return value

    def _add_node(
        self, op: str, weights: list[ir.Value], shape: tuple[int, ...], **attributes: float | list[int]
    ) -> None:
        node = ir.node(op, [self.end, *weights], attributes, name=f"{op}_{len(self.nodes)}")
        node.outputs[0].name = f"value_{len(self.nodes)}"
        self.nodes.append(node)
        self.end, self.shape = node.outputs[0], shape
