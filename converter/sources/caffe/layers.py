"""Builds each type of layer in ONNX: one function per type, listed in `BUILDERS`.

Layers of other types, parameters that caffe.proto does not know, and axes other than the channels are refused, and the
error names them.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial, reduce

import numpy as np

from converter.sources.caffe.graph import Array, Blob, LayerContext, list_shapes
from converter.sources.caffe.sliding import MAX_LENGTH, convolution, pooling
from fullconv.protos.caffe_pb2 import TRAIN, BiasParameter, EltwiseParameter, LRNParameter, ScaleParameter


def build_layer(context: LayerContext) -> Blob:
    """Add one layer to its graph; raises ConversionError."""
    layer = context.layer
    if layer.type not in BUILDERS:
        raise context.refusal(
            f"expected a type among {', '.join(BUILDERS)}; if the scores come before this layer, remove it from the "
            "prototxt"
        )
    if layer.unknown:
        raise context.refusal(f"{layer.unknown[0]} is not known and may change the result; remove it if it does not")
    if layer.parameters.HasField("phase") and layer.parameters.phase == TRAIN:
        raise context.refusal("expected phase TEST, got TRAIN")
    return BUILDERS[layer.type](context)


def _inner_product(context: LayerContext) -> Blob:
    parameters = context.layer.parameters.inner_product_param
    _check_channels(context, parameters.axis)
    features, outputs = math.prod(context.source.shape), parameters.num_output
    matrix = (features, outputs) if parameters.transpose else (outputs, features)
    weights = context.take(matrix, *[(outputs,)] * parameters.bias_term)
    vector = _flattened(context)
    return context.add("Gemm", vector, *weights, shape=(outputs,), transB=int(not parameters.transpose))


def _batch_norm(context: LayerContext) -> Blob:
    """Add batch normalisation. Caffe stores mean and variance as sums, and the number by which to divide the sums."""
    parameters = context.layer.parameters.batch_norm_param
    if parameters.HasField("use_global_stats") and not parameters.use_global_stats:
        raise context.refusal("expected use_global_stats, since without it the layer normalises over the batch")
    channels = context.source.shape[0]
    mean, variance, count = context.take((channels,), (channels,), (1,))
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    with np.errstate(all="ignore"):
        statistics = [total / count if count else zeros for total in (mean, variance)]
    return context.add("BatchNormalization", context.source, ones, zeros, *statistics, epsilon=parameters.eps)


def _scale(context: LayerContext) -> Blob:
    parameters = context.layer.parameters.scale_param
    shape = _channels(context, parameters)
    factor, *bias = context.take(shape, *[shape] * parameters.bias_term)
    scaled = context.add("Mul", context.source, _broadcast_channels(context, factor))
    return context.add("Add", scaled, _broadcast_channels(context, bias[0])) if bias else scaled


def _bias(context: LayerContext) -> Blob:
    (bias,) = context.take(_channels(context, context.layer.parameters.bias_param))
    return context.add("Add", context.source, _broadcast_channels(context, bias))


def _channels(context: LayerContext, parameters: ScaleParameter | BiasParameter) -> tuple[int, ...]:
    """Return the shape of weights with one number per channel, or one number for all channels."""
    shape = context.source.shape
    _check_channels(context, parameters.axis)
    if parameters.num_axes not in (0, 1) and (parameters.num_axes, len(shape)) != (-1, 1):
        raise context.refusal(f"expected num_axes 1, one number for each channel, got {parameters.num_axes}")
    return shape[:1] if parameters.num_axes else ()


def _broadcast_channels(context: LayerContext, weights: Array) -> Array:
    """Return weights per channel in a shape that broadcasts to the map."""
    return weights.reshape(-1, *[1] * (len(context.source.shape) - 1))


def _prelu(context: LayerContext) -> Blob:
    shared = context.layer.parameters.prelu_param.channel_shared
    (slope,) = context.take(() if shared else context.source.shape[:1])
    return context.add("PRelu", context.source, _broadcast_channels(context, slope))


def _relu(context: LayerContext) -> Blob:
    slope = context.layer.parameters.relu_param.negative_slope
    return context.add("LeakyRelu", context.source, alpha=slope) if slope else context.add("Relu", context.source)


def _elu(context: LayerContext) -> Blob:
    return context.add("Elu", context.source, alpha=context.layer.parameters.elu_param.alpha)


def _elementwise(op: str, context: LayerContext) -> Blob:
    return context.add(op, context.source)


def _power(context: LayerContext) -> Blob:
    """Add (shift + scale · x)^power, without the steps that change nothing."""
    parameters, blob = context.layer.parameters.power_param, context.source
    for op, number, idle in (("Mul", parameters.scale, 1), ("Add", parameters.shift, 0), ("Pow", parameters.power, 1)):
        if number != idle:
            blob = context.add(op, blob, np.array([number], np.float32))
    return blob


def _lrn(context: LayerContext) -> Blob:
    parameters = context.layer.parameters.lrn_param
    size, _ = parameters.local_size, context.map
    if not size % 2 or size > MAX_LENGTH:
        raise context.refusal(f"expected an odd local_size of at most {MAX_LENGTH}, got {size}")
    if parameters.norm_region == LRNParameter.ACROSS_CHANNELS:
        return context.add(
            "LRN", context.source, size=size, alpha=parameters.alpha, beta=parameters.beta, bias=parameters.k
        )
    # x · (1 + alpha · mean of x² over the neighbours)^−beta; like Caffe it ignores `k`
    squares = context.add("Mul", context.source, context.source)
    mean = context.add(
        "AveragePool", squares, kernel_shape=[size] * 2, pads=[size // 2] * 4, strides=[1, 1], count_include_pad=1
    )
    scaled = context.add("Mul", mean, np.array([parameters.alpha], np.float32))
    shifted = context.add("Add", scaled, np.ones(1, np.float32))
    return context.add("Mul", context.source, context.add("Pow", shifted, np.array([-parameters.beta], np.float32)))


def _eltwise(context: LayerContext) -> Blob:
    parameters = context.layer.parameters.eltwise_param
    coefficients = list(parameters.coeff) or [1.0] * len(context.inputs)
    if len({blob.shape for blob in context.inputs}) != 1 or len(coefficients) != len(context.inputs):
        shapes = [blob.shape for blob in context.inputs]
        raise context.refusal(f"expected bottoms of one shape, and coeff for each or none, got {list_shapes(shapes)}")
    if parameters.coeff and parameters.operation != EltwiseParameter.SUM:
        raise context.refusal("expected coeff only in sums")
    terms = [
        blob if coefficient == 1 else context.add("Mul", blob, np.array([coefficient], np.float32))
        for blob, coefficient in zip(context.inputs, coefficients, strict=True)
    ]
    op = {EltwiseParameter.SUM: "Add", EltwiseParameter.PROD: "Mul", EltwiseParameter.MAX: "Max"}[parameters.operation]
    return reduce(partial(context.add, op), terms)


def _concat(context: LayerContext) -> Blob:
    parameters = context.layer.parameters.concat_param
    axis = parameters.concat_dim if parameters.HasField("concat_dim") else parameters.axis
    shapes = [blob.shape for blob in context.inputs]
    if len({shape[1:] for shape in shapes}) != 1:
        raise context.refusal(f"expected bottoms that differ only in their channels, got {list_shapes(shapes)}")
    _check_channels(context, axis)
    return context.add("Concat", *context.inputs, shape=(sum(shape[0] for shape in shapes), *shapes[0][1:]), axis=1)


def _softmax(context: LayerContext) -> Blob:
    _check_channels(context, context.layer.parameters.softmax_param.axis)
    return context.add("Softmax", context.source, axis=1)


def _flatten(context: LayerContext) -> Blob:
    parameters = context.layer.parameters.flatten_param
    _check_channels(context, parameters.axis)
    if parameters.end_axis not in (-1, len(context.source.shape)):
        raise context.refusal(f"expected end_axis -1, got {parameters.end_axis}")
    return _flattened(context)


def _reshape(context: LayerContext) -> Blob:
    """Add a Reshape that flattens the map, or keeps its shape."""
    parameters, shape = context.layer.parameters.reshape_param, context.source.shape
    batch, *sizes = parameters.shape.dim or [1]
    kept = [shape[at] if size == 0 and at < len(shape) else size for at, size in enumerate(sizes)]
    if not parameters.axis and parameters.num_axes == -1 and batch in (0, -1, 1):
        if kept in ([-1], [math.prod(shape)]):
            return _flattened(context)
        if kept == list(shape):
            return context.source
    raise context.refusal(f"expected dim: 0 and dim: -1, which flatten the map, got {[batch, *sizes]}")


def _flattened(context: LayerContext) -> Blob:
    """Return the layer's input, flattened to a vector in the order of channels, rows and columns."""
    source = context.source
    if len(source.shape) == 1:
        return source
    name = f"{context.layer.parameters.name}.flatten"
    return context.graph.node(name, "Flatten", [source.value], (math.prod(source.shape),), axis=1)


def _identity(context: LayerContext) -> Blob:
    return context.source


def _check_channels(context: LayerContext, axis: int) -> None:
    if axis not in (1, -len(context.inputs[0].shape)):
        raise context.refusal(f"expected axis 1, the channels, got {axis}")


BUILDERS: Mapping[str, Callable[[LayerContext], Blob]] = {
    "BatchNorm": _batch_norm,
    "Bias": _bias,
    "Concat": _concat,
    "Convolution": convolution,
    "Dropout": _identity,
    "ELU": _elu,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "InnerProduct": _inner_product,
    "LRN": _lrn,
    "PReLU": _prelu,
    "Pooling": pooling,
    "Power": _power,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Scale": _scale,
    "Sigmoid": partial(_elementwise, "Sigmoid"),
    "Softmax": _softmax,
    "Split": _identity,
    "TanH": partial(_elementwise, "Tanh"),
}
