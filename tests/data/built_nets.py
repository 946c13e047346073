"""The networks that `make_built.py` builds, as functions of the operator set."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from built_graph import Graph

CEIL = (0, 0, 1, 1)
"""Caffe rounded the sizes of pools up."""


def caffenet(opset: int) -> onnx.ModelProto:
    """Caffe2's AlexNet: LRN, groups, pools with pads that the training size does not need, and the mask of Dropout."""
    graph = Graph(opset, (1, 3, 27, 31))
    value = graph.relu(graph.conv("data_0", (4, 3, 3, 3), strides=[2, 2]))
    value = graph.pool(graph.norm(value), 3, 2, CEIL)
    value = graph.relu(graph.conv(value, (6, 2, 3, 3), group=2))
    value = graph.pool(graph.norm(value), 2, 1)
    value = graph.reshape(value, 1, 6 * 3 * 4)
    value = graph.dropout(graph.relu(graph.gemm(value, 6 * 3 * 4, 8)))
    value = graph.dropout(graph.relu(graph.gemm(value, 8, 8)))
    return graph.model(graph.add("Softmax", graph.gemm(value, 8, 5)), (1, 5), "onnx-caffe2")


def resnet(opset: int) -> onnx.ModelProto:
    """Caffe2's ResNet: batch normalisation in test mode, Sum, a pool over the whole map. Its blocks are 1×1 here."""
    graph = Graph(opset, (1, 3, 21, 25))
    value = graph.batch_norm(graph.conv("data_0", (6, 3, 3, 3), bias=False, strides=[2, 2]), 6)
    value = graph.pool(graph.relu(value), 3, 2)
    for _ in range(2):
        branch = graph.relu(graph.batch_norm(graph.conv(value, (3, 6, 1, 1), bias=False), 3))
        branch = graph.batch_norm(graph.conv(branch, (6, 3, 1, 1), bias=False), 6)
        value = graph.relu(graph.total(branch, value))
    value = graph.conv(value, (6, 6, 1, 2), bias=False)
    value = graph.reshape(graph.pool(value, 4, 1, kind="Average"), 1, 6)
    return graph.model(graph.add("Softmax", graph.gemm(value, 6, 5)), (1, 5), "onnx-caffe2")


def inception(opset: int) -> onnx.ModelProto:
    """Inception v1's end: branches, and a 7×7 average of a 6×6 map, with pads that make it fit."""
    graph = Graph(opset, (1, 3, 29, 29))
    value = graph.pool(graph.relu(graph.conv("data_0", (4, 3, 3, 3), strides=[2, 2])), 3, 2)
    value = graph.norm(value)
    branches = [graph.relu(graph.conv(value, (3, 4, 1, 1)))]
    branches.append(graph.relu(graph.conv(graph.relu(graph.conv(value, (2, 4, 1, 1))), (3, 2, 1, 1))))
    value = graph.add("Concat", *branches, axis=1)
    value = graph.dropout(graph.pool(value, 7, 1, CEIL, "Average"))
    weights = graph.reshape(graph.weight(1, 1, 5, 6, fan_in=6), 5, 6)
    options = {"broadcast": 1} if opset < 7 else {}
    value = graph.add("Gemm", graph.reshape(value, 1, 6), weights, graph.uniform(-0.2, 0.3, 5), transB=1, **options)
    return graph.model(graph.add("Softmax", value), (1, 5), "onnx-caffe2")


def squeezenet(opset: int) -> onnx.ModelProto:
    """Caffe2's SqueezeNet: the classifier is a convolution, and Softmax of a (1, 5, 1, 1) map names no axis."""
    graph = Graph(opset, (1, 3, 21, 25), seed=1)
    value = graph.pool(graph.relu(graph.conv("data_0", (6, 3, 3, 3), strides=[2, 2])), 3, 2)
    squeezed = graph.relu(graph.conv(value, (2, 6, 1, 1)))
    expanded = [graph.relu(graph.conv(squeezed, (3, 2, 1, 1))) for _ in range(2)]
    value = graph.dropout(graph.add("Concat", *expanded, axis=1))
    value = graph.add("GlobalAveragePool", graph.relu(graph.conv(value, (5, 6, 1, 1))))
    return graph.model(graph.add("Softmax", value), (1, 5, 1, 1), "onnx-caffe2")


def shufflenet(opset: int) -> onnx.ModelProto:
    """Caffe2's ShuffleNet: channels shuffled through five axes, with the map's size and the batch as numbers."""
    graph = Graph(opset, (1, 3, 20, 24))
    value = graph.pool(graph.relu(graph.conv("data_0", (6, 3, 3, 3))), 2, 2)
    branch = graph.relu(graph.batch_norm(graph.conv(value, (6, 2, 1, 1), bias=False, group=3), 6))
    branch = graph.add("Transpose", graph.reshape(branch, 1, 3, 2, 9, 11), perm=[0, 2, 1, 3, 4])
    branch = graph.batch_norm(graph.conv(graph.reshape(branch, 1, 6, 9, 11), (6, 1, 1, 1), group=6, bias=False), 6)
    value = graph.pool(graph.relu(graph.total(value, branch)), 9, 1, kind="Average")
    value = graph.reshape(graph.conv(value, (6, 6, 1, 3)), 1, 6)
    return graph.model(graph.add("Softmax", graph.gemm(value, 6, 5)), (1, 5), "onnx-caffe2")


def densenet(opset: int) -> onnx.ModelProto:
    """Caffe's DenseNet: batch normalisation without scale, then Scale as Mul and Add, scores as a (1, 5, 1, 1) map."""
    graph = Graph(opset, (1, 3, 20, 24))
    value = graph.pool(graph.relu(graph.conv("data_0", (4, 3, 3, 3), strides=[2, 2])), 3, 2, CEIL)
    channels = 4
    for _ in range(2):
        value = graph.add("Concat", value, graph.conv(caffe_norm(graph, value, channels), (2, channels, 1, 1)), axis=1)
        channels += 2
    value = graph.add("GlobalAveragePool", caffe_norm(graph, value, channels))
    return graph.model(graph.conv(value, (5, channels, 1, 1)), (1, 5, 1, 1), "onnx-caffe2")


def caffe_norm(graph: Graph, value: str, channels: int) -> str:
    """Caffe's BatchNorm, Scale and ReLU."""
    value = graph.batch_norm(value, channels)
    scale, bias = (
        graph.add("Unsqueeze", graph.uniform(low, high, channels), axes=[1, 2])
        for low, high in ((0.5, 1.5), (-0.2, 0.3))
    )
    return graph.relu(graph.add("Add", graph.add("Mul", value, scale), bias))


def cntk_mnist(opset: int) -> onnx.ModelProto:
    """CNTK's MNIST network: SAME_UPPER, biases added, the weights of the last layer in four axes."""
    graph = Graph(opset, (1, 1, 28, 28), constants=opset < 7)
    value = graph.conv(
        "data_0", (4, 1, 5, 5), bias=False, auto_pad="SAME_UPPER", strides=[1, 1], dilations=[1, 1], group=1
    )
    value = graph.relu(cntk_bias(graph, value, 4))
    value = graph.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4, auto_pad="NOTSET")
    value = graph.conv(
        value, (16, 4, 5, 5), bias=False, auto_pad="SAME_UPPER", strides=[1, 1], dilations=[1, 1], group=1
    )
    value = graph.relu(cntk_bias(graph, value, 16))
    value = graph.add("MaxPool", value, kernel_shape=[3, 3], strides=[3, 3], pads=[0] * 4, auto_pad="NOTSET")
    return graph.model(cntk_times(graph, value, (16, 4, 4, 10)), (1, 10), "CNTK")


def cntk_valid(opset: int) -> onnx.ModelProto:
    """CNTK's MNIST network without padding, as CNTK writes `pad=False`."""
    graph = Graph(opset, (1, 1, 22, 26), constants=opset < 7)
    value = graph.relu(cntk_bias(graph, graph.conv("data_0", (4, 1, 3, 3), bias=False, auto_pad="VALID"), 4))
    value = graph.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID")
    value = graph.relu(cntk_bias(graph, graph.conv(value, (6, 4, 3, 3), bias=False, auto_pad="VALID"), 6))
    value = graph.add("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID")
    return graph.model(cntk_times(graph, value, (6, 4, 5, 5)), (1, 5), "CNTK")


def cntk_bias(graph: Graph, value: str, channels: int) -> str:
    """A number for every channel."""
    return graph.plus(value, graph.uniform(-0.2, 0.3, channels, 1, 1), axis=1)


def cntk_times(graph: Graph, value: str, shape: tuple[int, ...]) -> str:
    """The last layer: both sides reshaped, then multiplied."""
    *features, classes = shape
    count = int(np.prod(features))
    weights = graph.reshape(graph.weight(*shape, fan_in=count), count, classes)
    value = graph.add("MatMul", graph.reshape(value, 1, count), weights)
    return graph.plus(value, graph.uniform(-0.2, 0.3, 1, classes))


def pytorch04(opset: int) -> onnx.ModelProto:
    """PyTorch 0.4: an explicit Pad before the average, batch normalisation of vectors between two more axes."""
    graph = Graph(opset, (1, 3, 22, 26))
    ones: dict[str, Any] = {"dilations": [1, 1], "strides": [1, 1]}
    zeros = [0, 0, 0, 0]
    value = graph.relu(graph.conv("data_0", (4, 3, 3, 3), pads=zeros, group=1, **ones))
    value = graph.pool(value, 2, 2)
    value = graph.relu(graph.conv(value, (6, 4, 3, 3), pads=zeros, group=1, **ones))
    value = graph.add("Pad", value, mode="constant", pads=[0] * 8, value=0.0)
    value = graph.add("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = graph.gemm(graph.add("Flatten", value, axis=1), 120, 4)
    value = graph.add("Squeeze", graph.batch_norm(graph.add("Unsqueeze", value, axes=[2]), 4), axes=[2])
    weights = graph.add("Transpose", graph.weight(5, 4), perm=[1, 0])
    value = graph.plus(graph.add("MatMul", graph.relu(value), weights), graph.uniform(-0.2, 0.3, 5))
    return graph.model(value, (1, 5), "pytorch")


NETWORKS: dict[str, tuple[Callable[[int], onnx.ModelProto], tuple[int, ...]]] = {
    "caffenet": (caffenet, (1, 6, 8, 9)),
    "resnet": (resnet, (1, 6, 8, 9)),
    "inception": (inception, (1, 8)),
    "squeezenet": (squeezenet, (3, 8)),
    "shufflenet": (shufflenet, (6, 9)),
    "densenet": (densenet, (9,)),
    "cntk_mnist": (cntk_mnist, (1, 8)),
    "cntk_valid": (cntk_valid, (1, 8)),
    "pytorch04": (pytorch04, (6, 9)),
}
