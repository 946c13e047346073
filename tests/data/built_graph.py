"""Builds ONNX graphs node by node, in the form of each operator in the operator sets that exporters wrote."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """A classifier of one image under construction; its methods take and return names of values.

    Every weight is also an input of the graph, as IR version 3 requires; with `constants`, weights are Constant nodes,
    as in early files of CNTK.
    """

    def __init__(self, opset: int, shape: tuple[int, ...], *, constants: bool = False, seed: int = 0) -> None:
        self.opset = opset
        self.constants = constants
        self.random = np.random.default_rng(seed)
        self.inputs = [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, shape)]
        self.weights: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; returns its first output."""
        names = [f"{kind.lower()}{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0]

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """Add a tensor with a new name."""
        name = name or f"OC2_DUMMY_{len(self.weights) + len(self.nodes)}"
        tensor = numpy_helper.from_array(array, name)
        if self.constants and array.dtype == np.float32:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            return name
        self.weights.append(tensor)
        if self.opset < 9:
            self.inputs.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        return name

    def weight(self, *shape: int, fan_in: int | None = None) -> str:
        """Add random weights that keep the magnitude of the values."""
        deviation = np.sqrt(2 / (fan_in or np.prod(shape[1:])))
        return self.constant(
            self.random.normal(0, deviation, shape).astype(np.float32), f"w_{len(self.weights) + len(self.nodes)}"
        )

    def uniform(self, low: float, high: float, *shape: int) -> str:
        """Add uniformly distributed biases, scales or statistics."""
        name = f"v_{len(self.weights) + len(self.nodes)}"
        return self.constant(self.random.uniform(low, high, shape).astype(np.float32), name)

    def conv(self, value: str, shape: tuple[int, ...], *, bias: bool = True, **attributes: Any) -> str:
        """Add a convolution with weights (outputs, inputs of a group, height, width)."""
        inputs = [value, self.weight(*shape), *([self.uniform(-0.2, 0.3, shape[0])] if bias else [])]
        return self.add("Conv", *inputs, kernel_shape=shape[2:], **attributes)

    def relu(self, value: str) -> str:
        """Add a rectifier."""
        return self.add("Relu", value, **self._consumed(1))

    def pool(self, value: str, size: int, stride: int, pads: tuple[int, ...] = (0, 0, 0, 0), kind: str = "Max") -> str:
        """Add a pool, with pads at the bottom and right where Caffe rounded up."""
        return self.add(f"{kind}Pool", value, kernel_shape=[size, size], strides=[stride, stride], pads=pads)

    def norm(self, value: str) -> str:
        """Add local response normalisation that is strong enough to change the scores."""
        return self.add("LRN", value, size=3, alpha=0.5, beta=0.75, bias=1.0)

    def batch_norm(self, value: str, channels: int) -> str:
        """Add batch normalisation; later operator sets lack consumed inputs, then test mode, then the spatial flag."""
        inputs = [self.uniform(low, high, channels) for low, high in ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 2))]
        attributes: dict[str, Any] = {"epsilon": 1e-5}
        if self.opset < 6:
            attributes["consumed_inputs"] = [0, 0, 0, 1, 1]
        if self.opset < 7:
            attributes["is_test"] = 1
        if self.opset < 9:
            attributes["spatial"] = 1
        return self.add("BatchNormalization", value, *inputs, **attributes)

    def reshape(self, value: str, *shape: int) -> str:
        """Add a Reshape, whose shape is an attribute before operator set 5."""
        if self.opset < 5:
            return self.add("Reshape", value, shape=shape)
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64)))

    def plus(self, value: str, other: str, axis: int | None = None) -> str:
        """Add a sum that broadcasts the second value, which needs an attribute before operator set 7."""
        if self.opset >= 7:
            return self.add("Add", value, other)
        return self.add("Add", value, other, broadcast=1, **({} if axis is None else {"axis": axis}))

    def gemm(self, value: str, features: int, outputs: int) -> str:
        """Add a fully connected layer."""
        weights, bias = self.weight(outputs, features), self.uniform(-0.2, 0.3, outputs)
        return self.add("Gemm", value, weights, bias, transB=1, **({"broadcast": 1} if self.opset < 7 else {}))

    def dropout(self, value: str) -> str:
        """Add Dropout with its mask."""
        return self.add("Dropout", value, outputs=2, ratio=0.5, **({"is_test": 1} if self.opset < 7 else {}))

    def total(self, *values: str) -> str:
        """Add a sum of values of one shape."""
        return self.add("Sum", *values, **self._consumed(len(values)))

    def _consumed(self, inputs: int) -> dict[str, Any]:
        """Return the attribute by which Caffe2 named the inputs that an operator overwrote, up to operator set 5."""
        return {"consumed_inputs": [0] * inputs} if self.opset < 6 else {}

    def model(self, output: str, shape: tuple[int, ...], producer: str) -> onnx.ModelProto:
        """Return the complete model."""
        scores = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, producer, self.inputs, [scores], self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        ir_version = 3 if self.opset < 9 else 4
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name=producer)
