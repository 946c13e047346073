"""Convolutional networks in numpy, independent of ONNX Runtime: the reference for the tests.

Images are (channels, height, width); weights (filters, channels, kernel, kernel).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from converter.sources.architecture import Architecture
from converter.sources.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Layer,
    LeakyRelu,
    Linear,
    Lrn,
    MaxPool,
    PRelu,
)

Array = NDArray[np.floating]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}


def output_size(size: int, field: int, padding: int, stride: int) -> int:
    """Return (W - F + 2P)/S + 1; raises ValueError if the filter does not fit evenly."""
    steps, rest = divmod(size - field + 2 * padding, stride)
    if rest:
        raise ValueError(f"a field of {field} at stride {stride} does not fit {size} pixels padded by {padding}")
    return steps + 1


def im2col(image: Array, kernel: int, stride: int) -> Array:
    """Return every kernel×kernel window as a column: (channels * kernel², positions)."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    channels, rows, cols = windows.shape[:3]
    return windows.transpose(0, 3, 4, 1, 2).reshape(channels * kernel * kernel, rows * cols)


def convolve(image: Array, weights: Array, bias: Array, stride: int = 1, padding: int = 0) -> Array:
    """Return a convolution, computed with im2col and one matrix product."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    filters, _, kernel, _ = weights.shape
    rows, cols = ((size - kernel) // stride + 1 for size in padded.shape[1:])
    product = weights.reshape(filters, -1) @ im2col(padded, kernel, stride)
    return (product + bias[:, None]).reshape(filters, rows, cols)


def grouped(image: Array, layer: Conv, tensors: dict[str, Array]) -> Array:
    """Return a grouped convolution: one convolution for each group of channels, concatenated."""
    weights, bias = sums(layer, tensors)
    groups = len(image) // weights.shape[1]
    padded = np.pad(image, [(0, 0), *(pads_of(size, layer) for size in image.shape[1:])])
    parts = zip(*(np.split(array, groups) for array in (padded, weights, bias)), strict=True)
    convolved = [convolve(channels, kernels, offset, layer.stride) for channels, kernels, offset in parts]
    return np.concatenate(convolved)


def pads_of(size: int, layer: Conv) -> tuple[int, int]:
    """Return the padding before and after an axis; "same" pads more at the end, so that there are ⌈size / stride⌉."""
    if layer.pad != "same":
        return layer.pad, layer.pad
    both = max(0, (-(-size // layer.stride) - 1) * layer.stride + layer.kernel - size)
    return both // 2, both - both // 2


def positions(size: int, kernel: int, stride: int, padding: int, *, ceil: bool) -> int:
    """Return the number of windows of a pool along an axis; with `ceil`, a window may end beyond the padded map."""
    end = min(size - 1, size + padding - kernel + stride - 1) if ceil else size + padding - kernel
    return len(range(-padding, end + 1, stride))


def pool(image: Array, layer: MaxPool | AvgPool) -> Array:
    """Return the maximum or average over the part of each window that lies inside the map; outside is NaN."""
    before, reduce = (layer.pad, np.nanmax) if isinstance(layer, MaxPool) else (0, np.nanmean)
    counts = [positions(size, layer.kernel, layer.stride, before, ceil=layer.ceil) for size in image.shape[1:]]
    pads = [(before, before + layer.kernel)] * 2
    padded = np.pad(image.astype(float), ((0, 0), *pads), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    pooled: Array = reduce(windows[:, :: layer.stride, :: layer.stride][:, : counts[0], : counts[1]], axis=(3, 4))
    return pooled


def normalise(image: Array, layer: Lrn) -> Array:
    """Return x / (bias + alpha / n · Σx²)^beta, the sum over n neighbours; values beyond the edges are 0."""
    half = layer.size // 2
    axes, pads = ((0,), [half, 0, 0]) if layer.region == "channels" else ((1, 2), [0, half, half])
    squares = np.pad(image**2, [(pad, pad) for pad in pads])
    around = np.lib.stride_tricks.sliding_window_view(squares, [layer.size] * len(axes), axis=axes)
    mean = around.mean(axis=tuple(range(3, 3 + len(axes))))
    normalised: Array = image / (layer.bias + layer.alpha * mean) ** layer.beta
    return normalised


def as_matrix(weights: Array, bias: Array, height: int, width: int) -> tuple[Array, Array]:
    """Return a stride-1 convolution of a height×width image as a fully connected layer: a sparse matrix and a bias."""
    filters, channels, kernel, _ = weights.shape
    rows, cols = height - kernel + 1, width - kernel + 1
    matrix = np.zeros((filters, rows, cols, channels, height, width))
    for row in range(rows):
        for col in range(cols):
            matrix[:, row, col, :, row : row + kernel, col : col + kernel] = weights
    return matrix.reshape(filters * rows * cols, -1), np.repeat(bias, rows * cols)


def run(architecture: Architecture, tensors: dict[str, Array], image: Array) -> Array:
    """Return the scores of one window, computed in float64."""
    value: Array = image.astype(np.float64)
    for layer in architecture.layers_for(tensors):
        value = apply(layer, value, tensors)
    return value


def apply(  # noqa: C901, PLR0912 (a case for each kind of layer)
    layer: Layer, value: Array, tensors: dict[str, Array]
) -> Array:
    """Return the output of one layer for a map or a vector."""
    match layer:
        case Conv():
            value = grouped(value, layer, tensors)
        case BatchNorm():
            per_channel = (-1, *[1] * (value.ndim - 1))
            scale, shift, mean, variance = (tensors[key].reshape(per_channel) for key in layer.tensor_keys)
            value = (value - mean) / np.sqrt(variance + layer.eps) * scale + shift
        case Activation():
            value = ACTIVATIONS[layer.op](value)
        case LeakyRelu():
            value = np.where(value > 0, value, layer.slope * value)
        case PRelu():
            slope = tensors[layer.tensor_keys[0]].reshape(-1, *[1] * (value.ndim - 1))
            value = np.where(value > 0, value, slope * value)
        case Add() | Concat():
            branches = []
            for branch in layer.branches:
                branches.append(value)
                for part in branch:
                    branches[-1] = apply(part, branches[-1], tensors)
            if isinstance(layer, Concat):
                value = np.concatenate(branches)
            elif not layer.if_same_shape or len({branch.shape for branch in branches}) == 1:
                value = np.sum(branches, axis=0)
            else:
                value = branches[0]
        case Lrn():
            value = normalise(value, layer)
        case MaxPool() | AvgPool():
            value = pool(value, layer)
        case GlobalMaxPool():
            value = value.max(axis=(1, 2), keepdims=True)
        case GlobalAvgPool():
            value = value.mean(axis=(1, 2), keepdims=True)
        case AdaptiveAvgPool():
            assert value.shape[1:] == (layer.size, layer.size)
        case Flatten():
            value = value.reshape(-1)
        case Linear():
            weight, bias = sums(layer, tensors)
            value = weight @ value + bias
    return value


def sums(layer: Conv | Linear, tensors: dict[str, Array]) -> list[Array]:
    """Return the weights and the bias of a layer; the bias is 0 if the layer has none."""
    arrays = [tensors[key] for key in layer.tensor_keys]
    return arrays if layer.bias else [*arrays, np.zeros(len(arrays[0]))]


def random_tensors(architecture: Architecture, classes: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return random weights for an architecture without open numbers of blocks that keep its activations near 1."""
    shape: tuple[int, ...] = (architecture.channels, *architecture.window)
    layers = architecture.layers_for(())
    tensors, _ = random_layers(layers, shape, classes, rng, last=layers[-1])
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def random_layers(
    layers: Sequence[Layer], shape: tuple[int, ...], classes: int, rng: np.random.Generator, last: Layer | None
) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Return random weights for layers that follow a shape, and the shape of their output."""
    tensors: dict[str, Array] = {}
    for layer in layers:
        match layer:
            case Conv():
                groups = 1 if layer.groups == "any" else layer.groups
                weights = (layer.out or classes, shape[0] // groups, layer.kernel, layer.kernel)
                tensors |= random_sums(layer, weights, 2, rng)
            case BatchNorm():
                values = (*rng.standard_normal((3, shape[0])), rng.uniform(0.5, 2, shape[0]))
                tensors |= dict(zip(layer.tensor_keys, values, strict=True))
            case PRelu():
                tensors[layer.tensor_keys[0]] = rng.uniform(0.1, 0.4, shape[0])
            case Linear():
                tensors |= random_sums(layer, (layer.out or classes, *shape), 1 if layer is last else 2, rng)
            case Add() | Concat():
                made = [random_layers(branch, shape, classes, rng, None) for branch in layer.branches]
                for branch, _ in made:
                    tensors |= branch
                channels = sum(after[0] for _, after in made) if isinstance(layer, Concat) else made[0][1][0]
                shape = (channels, *made[0][1][1:])
                continue
        shape = following_shape(layer, shape, classes)
    return tensors, shape


def random_sums(layer: Conv | Linear, shape: tuple[int, ...], gain: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return random weights by He's rule and, if the layer has one, a small bias."""
    values = rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:])), 0.1 * rng.standard_normal(shape[0])
    return dict(zip(layer.tensor_keys, values, strict=False))


def following_shape(layer: Layer, shape: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """Return the shape of a layer's output for the shape of its input, a map or a vector."""
    match layer:
        case Conv():
            sizes = ((size + sum(pads_of(size, layer)) - layer.kernel) // layer.stride + 1 for size in shape[1:])
            return (layer.out or classes, *sizes)
        case MaxPool() | AvgPool():
            return pool(np.zeros(shape), layer).shape
        case GlobalAvgPool() | GlobalMaxPool():
            return (shape[0], 1, 1)
        case Flatten():
            return (int(np.prod(shape)),)
        case Linear():
            return (layer.out or classes,)
    return shape
