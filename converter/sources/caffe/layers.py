"""What each type of layer becomes in ONNX: one function a type, listed in `BUILDERS`.

Refused, by name: layers of other types, parameters that caffe.proto does not know, axes other than the channels'.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial, reduce

import numpy as np

from converter.sources.caffe.graph import Array, Blob, Step, listed
from converter.sources.caffe.windows import MAX_LENGTH, convolution, pooling
from fullconv.protos.caffe_pb2 import TRAIN, BiasParameter, EltwiseParameter, LRNParameter, ScaleParameter


def build(step: Step) -> Blob:
    """Add one layer to its graph; raises ConversionError."""
    layer = step.layer
    if layer.type not in BUILDERS:
        raise step.refusal(
            f"expected a type out of {', '.join(BUILDERS)}; if the scores come before it, take it out of the prototxt"
        )
    if layer.unknown:
        raise step.refusal(f"{layer.unknown[0]} is not known and may change the result; take it out if it does not")
    if layer.parameters.HasField("phase") and layer.parameters.phase == TRAIN:
        raise step.refusal("expected phase TEST, got TRAIN")
    return BUILDERS[layer.type](step)


def _inner_product(step: Step) -> Blob:
    parameters = step.layer.parameters.inner_product_param
    _check_channels(step, parameters.axis)
    features, outputs = math.prod(step.source.shape), parameters.num_output
    matrix = (features, outputs) if parameters.transpose else (outputs, features)
    weights = step.take(matrix, *[(outputs,)] * parameters.bias_term)
    vector = _flattened(step)
    return step.add("Gemm", vector, *weights, shape=(outputs,), transB=int(not parameters.transpose))


def _batch_norm(step: Step) -> Blob:
    """Mean and variance are kept as sums, with the number to divide them by."""
    parameters = step.layer.parameters.batch_norm_param
    if parameters.HasField("use_global_stats") and not parameters.use_global_stats:
        raise step.refusal("expected use_global_stats, since it normalises over the batch without")
    channels = step.source.shape[0]
    mean, variance, count = step.take((channels,), (channels,), (1,))
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    with np.errstate(all="ignore"):
        statistics = [total / count if count else zeros for total in (mean, variance)]
    return step.add("BatchNormalization", step.source, ones, zeros, *statistics, epsilon=parameters.eps)


def _scale(step: Step) -> Blob:
    parameters = step.layer.parameters.scale_param
    shape = _channels(step, parameters)
    factor, *bias = step.take(shape, *[shape] * parameters.bias_term)
    scaled = step.add("Mul", step.source, _spread(step, factor))
    return step.add("Add", scaled, _spread(step, bias[0])) if bias else scaled


def _bias(step: Step) -> Blob:
    (bias,) = step.take(_channels(step, step.layer.parameters.bias_param))
    return step.add("Add", step.source, _spread(step, bias))


def _channels(step: Step, parameters: ScaleParameter | BiasParameter) -> tuple[int, ...]:
    """The shape of weights of which each channel has one, or all have the same."""
    shape = step.source.shape
    _check_channels(step, parameters.axis)
    if parameters.num_axes not in (0, 1) and (parameters.num_axes, len(shape)) != (-1, 1):
        raise step.refusal(f"expected num_axes 1, a number for each channel, got {parameters.num_axes}")
    return shape[:1] if parameters.num_axes else ()


def _spread(step: Step, weights: Array) -> Array:
    """Weights of channels such that they broadcast to the map."""
    return weights.reshape(-1, *[1] * (len(step.source.shape) - 1))


def _prelu(step: Step) -> Blob:
    shared = step.layer.parameters.prelu_param.channel_shared
    (slope,) = step.take(() if shared else step.source.shape[:1])
    return step.add("PRelu", step.source, _spread(step, slope))


def _relu(step: Step) -> Blob:
    slope = step.layer.parameters.relu_param.negative_slope
    return step.add("LeakyRelu", step.source, alpha=slope) if slope else step.add("Relu", step.source)


def _elu(step: Step) -> Blob:
    return step.add("Elu", step.source, alpha=step.layer.parameters.elu_param.alpha)


def _elementwise(op: str, step: Step) -> Blob:
    return step.add(op, step.source)


def _power(step: Step) -> Blob:
    """(shift + scale * x) ^ power, without what does nothing."""
    parameters, blob = step.layer.parameters.power_param, step.source
    for op, number, idle in (("Mul", parameters.scale, 1), ("Add", parameters.shift, 0), ("Pow", parameters.power, 1)):
        if number != idle:
            blob = step.add(op, blob, np.array([number], np.float32))
    return blob


def _lrn(step: Step) -> Blob:
    parameters = step.layer.parameters.lrn_param
    size, _ = parameters.local_size, step.map
    if not size % 2 or size > MAX_LENGTH:
        raise step.refusal(f"expected an odd local_size of at most {MAX_LENGTH}, got {size}")
    if parameters.norm_region == LRNParameter.ACROSS_CHANNELS:
        return step.add("LRN", step.source, size=size, alpha=parameters.alpha, beta=parameters.beta, bias=parameters.k)
    # x * (1 + alpha * mean of x² around)^-beta; `k` has no part in it, as in Caffe
    squares = step.add("Mul", step.source, step.source)
    mean = step.add(
        "AveragePool", squares, kernel_shape=[size] * 2, pads=[size // 2] * 4, strides=[1, 1], count_include_pad=1
    )
    scaled = step.add("Mul", mean, np.array([parameters.alpha], np.float32))
    shifted = step.add("Add", scaled, np.ones(1, np.float32))
    return step.add("Mul", step.source, step.add("Pow", shifted, np.array([-parameters.beta], np.float32)))


def _eltwise(step: Step) -> Blob:
    parameters = step.layer.parameters.eltwise_param
    coefficients = list(parameters.coeff) or [1.0] * len(step.inputs)
    if len({blob.shape for blob in step.inputs}) != 1 or len(coefficients) != len(step.inputs):
        shapes = [blob.shape for blob in step.inputs]
        raise step.refusal(f"expected bottoms of one shape, and coeff for each or none, got {listed(shapes)}")
    if parameters.coeff and parameters.operation != EltwiseParameter.SUM:
        raise step.refusal("expected coeff in sums alone")
    terms = [
        blob if coefficient == 1 else step.add("Mul", blob, np.array([coefficient], np.float32))
        for blob, coefficient in zip(step.inputs, coefficients, strict=True)
    ]
    op = {EltwiseParameter.SUM: "Add", EltwiseParameter.PROD: "Mul", EltwiseParameter.MAX: "Max"}[parameters.operation]
    return reduce(partial(step.add, op), terms)


def _concat(step: Step) -> Blob:
    parameters = step.layer.parameters.concat_param
    axis = parameters.concat_dim if parameters.HasField("concat_dim") else parameters.axis
    shapes = [blob.shape for blob in step.inputs]
    if len({shape[1:] for shape in shapes}) != 1:
        raise step.refusal(f"expected bottoms alike but for their channels, got {listed(shapes)}")
    _check_channels(step, axis)
    return step.add("Concat", *step.inputs, shape=(sum(shape[0] for shape in shapes), *shapes[0][1:]), axis=1)


def _softmax(step: Step) -> Blob:
    _check_channels(step, step.layer.parameters.softmax_param.axis)
    return step.add("Softmax", step.source, axis=1)


def _flatten(step: Step) -> Blob:
    parameters = step.layer.parameters.flatten_param
    _check_channels(step, parameters.axis)
    if parameters.end_axis not in (-1, len(step.source.shape)):
        raise step.refusal(f"expected end_axis -1, got {parameters.end_axis}")
    return _flattened(step)


def _reshape(step: Step) -> Blob:
    """A flattening of the map, or nothing."""
    parameters, shape = step.layer.parameters.reshape_param, step.source.shape
    batch, *sizes = parameters.shape.dim or [1]
    kept = [shape[at] if size == 0 and at < len(shape) else size for at, size in enumerate(sizes)]
    if not parameters.axis and parameters.num_axes == -1 and batch in (0, -1, 1):
        if kept in ([-1], [math.prod(shape)]):
            return _flattened(step)
        if kept == list(shape):
            return step.source
    raise step.refusal(f"expected a flattening of the map, dim: 0 and dim: -1, got {[batch, *sizes]}")


def _flattened(step: Step) -> Blob:
    """What the layer reads as a vector, in the order of channels, rows and columns."""
    source = step.source
    if len(source.shape) == 1:
        return source
    name = f"{step.layer.parameters.name}.flatten"
    return step.graph.node(name, "Flatten", [source.value], (math.prod(source.shape),), axis=1)


def _identity(step: Step) -> Blob:
    return step.source


def _check_channels(step: Step, axis: int) -> None:
    if axis not in (1, -len(step.inputs[0].shape)):
        raise step.refusal(f"expected axis 1, the channels, got {axis}")


BUILDERS: Mapping[str, Callable[[Step], Blob]] = {
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
