"""Builds a classifier in ONNX from an architecture and the tensors of a checkpoint.

Each layer becomes the operator of the same name, and a fully connected layer becomes a Gemm. Therefore later steps
treat a checkpoint like a file of any exporter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.sources.architecture import (
    AdaptiveAvgPool,
    Architecture,
    AvgPool,
    BatchNorm,
    Conv,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    Lrn,
    MaxPool,
    Relu,
)
from converter.sources.checkpoint import Checkpoint
from converter.sources.classifier import Classifier

OPSET = 19
IR_VERSION = 9
EPSILON = 1e-5  # PyTorch's default for batch normalisation
BATCHES = ".num_batches_tracked"
"""Suffix of the keys of the counters of PyTorch's batch normalisation, which older checkpoints lack."""

Tensors = Mapping[str, NDArray[np.generic]]


def build_classifier(checkpoint: Checkpoint, architecture: Architecture, window: tuple[int, int]) -> Classifier:
    """Build the network for windows of (height, width) pixels; raises SourceError if the tensors do not fit it."""
    expected, got = set(architecture.keys()), {key for key in checkpoint.tensors if not key.endswith(BATCHES)}
    check_keys(architecture.name, len(expected), sorted(expected - got), sorted(got - expected))
    network = _Network(checkpoint.tensors, (architecture.channels, *window))
    for layer in architecture.layers:
        network.add(layer)
    model = network.model(architecture.name)
    return Classifier(
        original=model,
        model=model.clone(),
        window=window,
        preprocess=architecture.preprocess,
        activation=architecture.activation,
        labels=architecture.labels,
        source=checkpoint.source,
    )


def check_keys(name: str, expected: int, missing: Sequence[str], unknown: Sequence[str]) -> None:
    """Raise SourceError if a checkpoint lacks some of the network's tensors, or has other tensors."""
    if missing or unknown:
        faults = [f"lacks {', '.join(missing[:3])}"] if missing else []
        faults += [f"also has {', '.join(unknown[:3])}"] if unknown else []
        raise SourceError(
            f"checkpoint: expected the {expected} tensors of {name}, but it {' and '.join(faults)}"
            f"{' …' if max(len(missing), len(unknown)) > 3 else ''}; name the checkpoint's network with --arch"
        )


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

    def add(self, layer: Layer) -> None:
        """Append one layer; raises SourceError if it does not fit the layers before it or its tensors."""
        rank = 1 if isinstance(layer, Linear) else len(self.shape) if isinstance(layer, Relu) else 3
        if len(self.shape) != rank:
            raise SourceError(f"arch: {layer.op} cannot follow a shape of {self.shape}; check the order of the layers")
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

    def _append(self, layer: Layer) -> None:
        match layer:
            case Conv():
                self._conv(layer)
            case BatchNorm():
                weights = [self._add_tensor(key, self.shape[:1]) for key in layer.tensor_keys]
                self._add_node("BatchNormalization", weights, self.shape, epsilon=EPSILON)
            case Relu():
                self._add_node("Relu", [], self.shape)
            case Lrn():
                self._lrn(layer)
            case MaxPool() | AvgPool():
                self._add_windowed("MaxPool" if layer.op == "maxpool" else "AveragePool", [], layer, self.shape[0])
            case GlobalAvgPool():
                self._add_node("GlobalAveragePool", [], (self.shape[0], 1, 1))
            case AdaptiveAvgPool():
                self._adaptive_pool(layer)
            case Flatten():
                self._add_node("Flatten", [], (int(np.prod(self.shape)),), axis=1)
            case Linear():
                self._linear(layer)

    def _conv(self, layer: Conv) -> None:
        channels, out = self.shape[0], self._output_count(layer)
        if channels % layer.groups or out % layer.groups:
            raise SourceError(f"arch: conv of {layer.groups} groups cannot divide {channels} channels into {out}")
        shape = (out, channels // layer.groups, layer.kernel, layer.kernel)
        self._add_windowed("Conv", self._weights_and_bias(layer, shape), layer, out, group=layer.groups)

    def _add_windowed(
        self, op: str, weights: list[ir.Value], layer: Conv | MaxPool | AvgPool, channels: int, **attributes: int
    ) -> None:
        """Append a layer of (size + pads − kernel) / stride + 1 windows per axis, rounded down, or up with `ceil`.

        ONNX rounds down; with `ceil` it gets padding on the far side, for windows that reach over the edge.
        """
        pad, ceil = 0 if isinstance(layer, AvgPool) else layer.pad, not isinstance(layer, Conv) and layer.ceil
        sizes, after = [], []
        for size in self.shape[1:]:
            room = size + 2 * pad - layer.kernel
            count = (-(-room // layer.stride) if ceil else room // layer.stride) + 1
            count -= ceil and (count - 1) * layer.stride >= size + pad
            sizes.append(count)
            after.append(max(pad, (count - 1) * layer.stride + layer.kernel - size - pad))
        if min(sizes) < 1 or (pad >= layer.kernel and not isinstance(layer, Conv)):
            raise SourceError(
                f"arch: {layer.op} of {layer.kernel}×{layer.kernel} does not fit a map of {self.shape[1:]}"
            )
        self._add_node(
            op,
            weights,
            (channels, *sizes),
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[pad, pad, *after],
            **attributes,
        )

    def _lrn(self, layer: Lrn) -> None:
        if layer.region == "channels":
            self._add_node("LRN", [], self.shape, size=layer.size, alpha=layer.alpha, beta=layer.beta, bias=layer.bias)
            return
        image = self.end
        self._add_node("Mul", [image], self.shape)
        kernel, pads = [layer.size] * 2, [layer.size // 2] * 4
        self._add_node("AveragePool", [], self.shape, kernel_shape=kernel, pads=pads, count_include_pad=1)
        for op, number in (("Mul", layer.alpha), ("Add", layer.bias), ("Pow", -layer.beta)):
            self._add_node(
                op, [self._add_constant(f"number_{len(self.nodes)}", np.array([number], np.float32))], self.shape
            )
        self._add_node("Mul", [image], self.shape)

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

    def _linear(self, layer: Linear) -> None:
        features = self._output_count(layer)
        self._add_node("Gemm", self._weights_and_bias(layer, (features, *self.shape)), (features,), transB=1)

    def _output_count(self, layer: Conv | Linear) -> int:
        return layer.out or max((1, *self.tensors[layer.tensor_keys[0]].shape[:1]))

    def _weights_and_bias(self, layer: Conv | Linear, shape: tuple[int, ...]) -> list[ir.Value]:
        """Return the layer's weights, which have this shape, and its bias if it has one."""
        return [self._add_tensor(key, kind) for key, kind in zip(layer.tensor_keys, (shape, shape[:1]), strict=False)]

    def _add_tensor(self, key: str, shape: tuple[int, ...]) -> ir.Value:
        tensor = self.tensors[key]
        if tensor.shape != shape:
            raise SourceError(
                f"checkpoint: {key}: expected shape {shape}, got {tensor.shape}; check --arch and --window"
            )
        if tensor.dtype != np.float32:
            raise SourceError(f"checkpoint: {key}: expected floating-point numbers, got {tensor.dtype}")
        return self._add_constant(key, np.ascontiguousarray(tensor))

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
