"""Convolutional networks in numpy, written once and independently of ONNX Runtime: what the tests hold as true.

Images are (channels, height, width); weights (filters, channels, kernel, kernel).
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from converter.sources.architecture import (
    AdaptiveAvgPool,
    Architecture,
    BatchNorm,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    Relu,
)

Array = NDArray[np.floating]


def output_size(size: int, field: int, padding: int, stride: int) -> int:
    """(W - F + 2P)/S + 1; ValueError where the filter does not fit evenly."""
    steps, rest = divmod(size - field + 2 * padding, stride)
    if rest:
        raise ValueError(f"a field of {field} at stride {stride} does not fit {size} pixels padded by {padding}")
    return steps + 1


def im2col(image: Array, kernel: int, stride: int) -> Array:
    """Every kernel×kernel window as a column: (channels * kernel², positions)."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    channels, rows, cols = windows.shape[:3]
    return windows.transpose(0, 3, 4, 1, 2).reshape(channels * kernel * kernel, rows * cols)


def convolve(image: Array, weights: Array, bias: Array, stride: int = 1, padding: int = 0) -> Array:
    """Convolution as im2col and one matrix product."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    filters, _, kernel, _ = weights.shape
    rows, cols = ((size - kernel) // stride + 1 for size in padded.shape[1:])
    product = weights.reshape(filters, -1) @ im2col(padded, kernel, stride)
    return (product + bias[:, None]).reshape(filters, rows, cols)


def max_pool(image: Array, kernel: int, stride: int, padding: int = 0) -> Array:
    """The maximum over kernel×kernel windows."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride].max(
        axis=(3, 4)
    )


def as_matrix(weights: Array, bias: Array, height: int, width: int) -> tuple[Array, Array]:
    """A stride-1 convolution of a height×width image as a fully connected layer: a mostly zero matrix, and its bias."""
    filters, channels, kernel, _ = weights.shape
    rows, cols = height - kernel + 1, width - kernel + 1
    matrix = np.zeros((filters, rows, cols, channels, height, width))
    for row in range(rows):
        for col in range(cols):
            matrix[:, row, col, :, row : row + kernel, col : col + kernel] = weights
    return matrix.reshape(filters * rows * cols, -1), np.repeat(bias, rows * cols)


def run(architecture: Architecture, tensors: dict[str, Array], image: Array) -> Array:
    """Run a whole network on one window, in float64."""
    value: Array = image.astype(np.float64)
    for layer in architecture.layers:
        match layer:
            case Conv():
                weight, bias = (tensors[key] for key in layer.tensor_keys)
                value = convolve(value, weight, bias, layer.stride, layer.pad)
            case BatchNorm():
                scale, shift, mean, variance = (tensors[key][:, None, None] for key in layer.tensor_keys)
                value = (value - mean) / np.sqrt(variance + 1e-5) * scale + shift
            case Relu():
                value = np.maximum(value, 0)
            case MaxPool():
                value = max_pool(value, layer.kernel, layer.stride, layer.pad)
            case AdaptiveAvgPool():
                assert value.shape[1:] == (layer.size, layer.size)
            case Flatten():
                value = value.reshape(-1)
            case Linear():
                weight, bias = (tensors[key] for key in layer.tensor_keys)
                value = weight @ value + bias
    return value


def random_tensors(architecture: Architecture, classes: int, rng: np.random.Generator) -> dict[str, Array]:
    """Weights for an architecture that keep its activations near 1."""
    tensors, shape = {}, (architecture.channels, *architecture.window)
    for layer, following in pairwise([*architecture.layers, None]):
        match layer:
            case Conv():
                fan_in = shape[0] * layer.kernel**2
                weight = rng.standard_normal((layer.out, shape[0], layer.kernel, layer.kernel)) * np.sqrt(2 / fan_in)
                tensors |= dict(zip(layer.tensor_keys, (weight, 0.1 * rng.standard_normal(layer.out)), strict=True))
                shape = (layer.out, *((size + 2 * layer.pad - layer.kernel) // layer.stride + 1 for size in shape[1:]))
            case BatchNorm():
                values = (*rng.standard_normal((3, shape[0])), rng.uniform(0.5, 2, shape[0]))
                tensors |= dict(zip(layer.tensor_keys, values, strict=True))
            case MaxPool():
                shape = (shape[0], *((size + 2 * layer.pad - layer.kernel) // layer.stride + 1 for size in shape[1:]))
            case Flatten():
                shape = (int(np.prod(shape)),)
            case Linear():
                out = layer.out or classes
                weight = rng.standard_normal((out, *shape)) * np.sqrt((1 if following is None else 2) / shape[0])
                tensors |= dict(zip(layer.tensor_keys, (weight, 0.1 * rng.standard_normal(out)), strict=True))
                shape = (out,)
    return {key: value.astype(np.float32) for key, value in tensors.items()}
