"""Builds a network in ONNX node by node; each layer is added in a context of its own."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError, UnsupportedError
from converter.sources.caffe.prototxt import CaffeLayer
from converter.sources.network import IR_VERSION, OPSET

Array = NDArray[np.float32]
MAX_NUMBERS = 1 << 30
"""Limit on the numbers in all values of one window together: 4 GiB. VGG-16 has 30 million at 224×224."""


@dataclass(frozen=True)
class Blob:
    """A value and its shape without the batch: (channels, height, width) or (features,)."""

    value: ir.Value
    shape: tuple[int, ...]


class GraphBuilder:
    """Collects nodes and constants; `image` is the input, of shape (channels, height, width)."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []
        self._names: Counter[str] = Counter()
        self._numbers = 0
        self.image = self._blob(ir.val("input", ir.DataType.FLOAT, ["N", *image]), image)

    def node(
        self,
        name: str,
        op: str,
        inputs: Sequence[ir.Value],
        shape: tuple[int, ...],
        **attributes: float | Sequence[int],
    ) -> Blob:
        """Append a node with one output of a known shape; raises SourceError if the values take too much memory."""
        name = self._unique(name)
        node = ir.node(op, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}.output"
        self._nodes.append(node)
        return self._blob(node.outputs[0], shape)

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Add weights or parameters of a layer as a constant."""
        name = self._unique(name)
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
        self._constants.append(value)
        return value

    def model(self, name: str, end: Blob) -> ir.Model:
        """Return the finished network: input float32 (N, channels, height, width), output (N, classes)."""
        if len(end.shape) == 3 and end.shape[1:] == (1, 1):
            end = self.node("flatten", "Flatten", [end.value], end.shape[:1], axis=1)
        if len(end.shape) != 1:
            raise SourceError(f"prototxt: expected one row of scores at the end, got a shape of {end.shape}")
        end.value.name, end.value.shape, end.value.dtype = "output", ir.Shape(["N", *end.shape]), ir.DataType.FLOAT
        graph = ir.Graph(
            [self.image.value],
            [end.value],
            nodes=self._nodes,
            initializers=self._constants,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="fullconv")

    def _blob(self, value: ir.Value, shape: tuple[int, ...]) -> Blob:
        self._numbers += math.prod(shape)
        if self._numbers > MAX_NUMBERS:
            raise SourceError(
                f"{value.name}: expected at most {MAX_NUMBERS} numbers in all values of one window; check its size"
            )
        return Blob(value, shape)

    def _unique(self, name: str) -> str:
        """Return an unused name: layers may share a name, and one layer may need several nodes."""
        self._names[name] += 1
        return name if self._names[name] == 1 else self._unique(f"{name}_{self._names[name]}")


@dataclass(frozen=True)
class LayerContext:
    """One layer that is added to a graph: the layer, the blobs that it reads, its weights, and the graph."""

    layer: CaffeLayer
    inputs: list[Blob]
    weights: list[Array]
    graph: GraphBuilder

    @property
    def source(self) -> Blob:
        """The only blob that the layer reads; raises UnsupportedError if it reads several."""
        if len(self.inputs) != 1:
            raise self.refusal(f"expected one bottom, got {len(self.inputs)}")
        return self.inputs[0]

    @property
    def map(self) -> tuple[int, int, int]:
        """Channels, height and width of the blob that the layer reads; raises UnsupportedError if it is a vector."""
        if len(self.source.shape) != 3:
            raise self.refusal(f"expected a map of channels, height and width, got a shape of {self.source.shape}")
        channels, height, width = self.source.shape
        return channels, height, width

    def take(self, *shapes: tuple[int, ...]) -> list[Array]:
        """Return the layer's weights in these shapes; raises SourceError unless the weights have them.

        Leading axes of 1 are ignored: old versions of Caffe always wrote four axes.
        """
        got = [array.shape for array in self.weights]
        if [_without_leading_ones(shape) for shape in got] != [_without_leading_ones(shape) for shape in shapes]:
            raise SourceError(
                f"{self.layer}: expected weights of shape {list_shapes(shapes)}, got {list_shapes(got)} in the "
                "caffemodel; check that it belongs to this prototxt, and that --window is right"
            )
        return [array.reshape(shape) for array, shape in zip(self.weights, shapes, strict=True)]

    def add(
        self,
        op: str,
        *operands: Blob | NDArray[np.generic],
        shape: tuple[int, ...] | None = None,
        **attributes: float | list[int],
    ) -> Blob:
        """Append a node for the layer. Default shape: that of the first operand."""
        name, first = self.layer.parameters.name, operands[0]
        values = [
            operand.value if isinstance(operand, Blob) else self.graph.constant(f"{name}.{position}", operand)
            for position, operand in enumerate(operands)
        ]
        return self.graph.node(name, op, values, first.shape if shape is None else shape, **attributes)

    def refusal(self, reason: str) -> UnsupportedError:
        """Return an error that names the layer."""
        return UnsupportedError(f"{self.layer}: {reason}")


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its leading axes of 1."""
    return tuple(dropwhile(lambda size: size == 1, shape))


def list_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    """Return shapes as a list in words."""
    return ", ".join(map(str, shapes)) or "none"
