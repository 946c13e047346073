"""A small classifier for the notebooks, trained in a second without a library for training.

Two layers of random convolutions and a mean over the window give the features; a linear layer is fitted to them by
softmax regression. The result is an ONNX file that takes pixel values from 0 to 255, as exporters write it.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

FILTERS = (24, 48)
"""Number of filters of each layer. Each layer has a stride of 2, so that windows are 4 pixels apart."""
STEPS, RATE, DECAY = 400, 0.5, 1e-3
"""Gradient steps, step size and weight decay of the regression."""


def train(windows: Pixels, classes: NDArray[np.int64], file: Path, seed: int = 0) -> None:
    """Train a classifier on windows (windows, height, width, channels) and their classes (windows,); write its file."""
    rng = np.random.default_rng(seed)
    channels = windows.shape[-1]
    weights: dict[str, Floats] = {
        "first": _random(rng, (FILTERS[0], channels, 5, 5)) / np.float32(255),
        "second": _random(rng, (FILTERS[1], FILTERS[0], 3, 3)),
    }
    found = features(_model(weights, windows.shape), windows)
    weights["head"], weights["bias"] = _regression(found, classes)
    onnx.save(_model(weights, windows.shape), file)


def features(model: onnx.ModelProto, windows: Pixels) -> Floats:
    """Return the output of a network for windows (windows, height, width, channels): (windows, values)."""
    session = ort.InferenceSession(model.SerializeToString())
    (output,) = session.run(None, {"image": windows.transpose(0, 3, 1, 2).astype(np.float32)})
    values: Floats = output
    return values


def _random(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Floats:
    """Return random filters that keep the scale of their input."""
    return np.asarray(rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape), np.float32)


def _regression(values: Floats, classes: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the weights (classes, values) and biases (classes,) of softmax regression, by gradient descent."""
    mean, deviation = values.mean(0), values.std(0) + 1e-6
    inputs = np.c_[(values - mean) / deviation, np.ones(len(values))]
    targets = np.eye(classes.max() + 1)[classes]
    fitted = np.zeros((inputs.shape[1], targets.shape[1]))
    for _ in range(STEPS):
        scores = inputs @ fitted
        powers = np.exp(scores - scores.max(1, keepdims=True))
        error = powers / powers.sum(1, keepdims=True) - targets
        fitted -= RATE * (inputs.T @ error / len(inputs) + DECAY * fitted)
    head = fitted[:-1].T / deviation
    return head.astype(np.float32), (fitted[-1] - head @ mean).astype(np.float32)


def _model(weights: dict[str, Floats], shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return the network in ONNX: the classifier, or without the weights `head` the network of the features."""
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["features"]),
    ]
    if "head" in weights:
        nodes.append(helper.make_node("Gemm", ["features", "head", "bias"], ["scores"], transB=1))
    _, height, width, channels = shape
    graph = helper.make_graph(
        nodes,
        "small_net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["windows", channels, height, width])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["windows", None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
