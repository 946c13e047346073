"""Networks that hypothesis puts together from blocks, as ONNX graphs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


@dataclass
class Net:
    """A network under construction, whose last value has some channels and a size for one window."""

    rng: np.random.Generator
    channels: int = 2
    size: Pair = (0, 0)
    value: str = "image"
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    strides: Pair = (1, 1)
    names: Iterator[int] = field(default_factory=count)

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; returns its output."""
        name = f"v{next(self.names)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def kernel(self, *shape: int) -> str:
        """Add random weights (outputs, channels, rows, cols) that keep the size of the values; returns their name."""
        return self.constant(self.rng.normal(size=shape) / np.sqrt(math.prod(shape[1:])))

    def constant(self, array: np.ndarray) -> str:
        """Add weights; returns their name."""
        name = f"w{next(self.names)}"
        self.weights[name] = array.astype(np.float32)
        return name

    def layer(
        self,
        op: str,
        kernel: Pair,
        strides: Pair = (1, 1),
        dilations: Pair = (1, 1),
        pads: Pads = (0, 0, 0, 0),
        *,
        groups: int = 1,
        value: str | None = None,
        counts: int = 1,
    ) -> str:
        """Add a convolution or pool of a value, the last one by default; returns its output."""
        attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
        inputs = [value or self.value]
        if op == "Conv":
            weights = self.kernel(self.channels, self.channels // groups, *kernel)
            inputs += [weights, self.constant(self.rng.normal(size=self.channels))]
            attributes["group"] = groups
        if op == "AveragePool":
            attributes["count_include_pad"] = counts
        return self.add(op, inputs, **attributes)

    def proto(self, classes: int = 3) -> onnx.ModelProto:
        """Return the network with a fully connected head over the whole map, with softmax."""
        head = self.kernel(classes, self.channels, *self.size)
        scores = self.add("Conv", [self.value, head], kernel_shape=self.size)
        scores = self.add("Softmax", [scores], axis=1)
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, "H", "W"])
        graph = helper.make_graph(
            self.nodes,
            "net",
            [image],
            [helper.make_tensor_value_info(scores, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


class TooSmallError(Exception):
    """A layer of a random network would have no cells."""


def after(size: Pair, kernel: Pair, strides: Pair, dilations: Pair, pads: Pads) -> Pair:
    """Return the size of a layer's output."""
    rows, cols = (
        (size[axis] + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
        for axis in (0, 1)
    )
    if min(rows, cols) < 1:
        raise TooSmallError
    return rows, cols


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
chains = st.tuples(
    st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.sampled_from([1, 1, 2, 3]), st.sampled_from([1, 1, 2])),
    st.tuples(st.sampled_from([1, 1, 2]), st.sampled_from([1, 1, 3])),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.sampled_from([1, 2]),
)
blocks = st.one_of(
    st.tuples(st.just("chain"), chains),
    st.tuples(st.just("residual"), pairs),
    st.tuples(st.just("branches"), pairs),
    st.tuples(st.just("pad"), st.tuples(*[st.integers(0, 2)] * 4)),
    st.tuples(st.just("crop"), st.tuples(*[st.integers(0, 2)] * 4)),
    st.tuples(st.just("relu"), st.just(())),
)


def add_block(net: Net, kind: str, how: tuple[Any, ...]) -> None:
    """Add a block of some kind to a network."""
    match kind:
        case "chain":
            op, kernel, strides, dilations, pads, groups = how
            if op != "Conv":  # ONNX Runtime refuses larger pads, and dilated averages of this operator set are exact
                pads = tuple(min(pad, kernel[axis % 2] - 1) for axis, pad in enumerate(pads))
            net.size = after(net.size, kernel, strides, dilations, pads)
            net.value = net.layer(op, kernel, strides, dilations, pads, groups=groups, counts=groups - 1)
            net.strides = net.strides[0] * strides[0], net.strides[1] * strides[1]
        case "residual":
            kernel = (2 * how[0] + 1, 2 * how[1] + 1)
            inner = net.layer("Conv", kernel, pads=(how[0], how[1], how[0], how[1]))
            net.value = net.add("Add", [net.add("Relu", [inner]), net.value])
        case "branches":
            one = net.layer("Conv", (1, 1))
            two = net.layer("MaxPool", (3, 3), pads=(1, 1, 1, 1))
            three = net.layer("Conv", (1, 2 * how[1] + 1), pads=(0, how[1], 0, how[1]))
            joined = net.add("Concat", [one, two, three], axis=1)
            mix = net.kernel(net.channels, 3 * net.channels, 1, 1)
            net.value = net.add("Conv", [joined, mix], kernel_shape=(1, 1))
        case "pad":
            top, left, bottom, right = how
            name = f"p{next(net.names)}"
            net.weights[name] = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
            value = net.constant(np.array(0.5))
            net.value = net.add("Pad", [net.value, name, value])
            net.size = net.size[0] + top + bottom, net.size[1] + left + right
        case "crop":
            top, left, bottom, right = how
            if net.size[0] <= top + bottom or net.size[1] <= left + right:
                raise TooSmallError
            ends = [-end or np.iinfo(np.int64).max for end in (bottom, right)]
            names = []
            for numbers in ([top, left], ends, [2, 3]):
                names.append(f"s{next(net.names)}")
                net.weights[names[-1]] = np.array(numbers, np.int64)
            net.value = net.add("Slice", [net.value, *names])
            net.size = net.size[0] - top - bottom, net.size[1] - left - right
        case "relu":
            net.value = net.add("Relu", [net.value])


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """Return a session without optimisations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options)
