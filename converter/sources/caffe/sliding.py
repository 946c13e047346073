"""Builds convolutions and pools in ONNX.

Caffe rounds the number of a pool's windows up. Along an axis of n elements, with kernel k, stride s and padding p:

    windows = ⌈(n + 2p − k) / s⌉ + 1, minus one if the last window would begin after n + p

Therefore the last windows may reach over the far edge. ONNX rounds down, and gets as much padding on the far side as
these windows need: (windows − 1)s + k − n − p. A maximum ignores that padding. An average divides by the number of
elements of its window that lie on the map or its padding p, without the elements beyond; if a pool has both kinds of
padding, a Pad adds p to the map.
"""

from dataclasses import dataclass

import numpy as np

from converter.sources.caffe.graph import Blob, LayerContext
from fullconv.protos.caffe_pb2 import ConvolutionParameter, PoolingParameter

MAX_LENGTH = 4096
"""Limit on kernels, strides and pads, in elements of the map."""
LENGTHS = {"kernel_size": ("kernel", 0, 1), "stride": ("stride", 1, 1), "pad": ("pad", 0, 0), "dilation": ("", 1, 1)}
"""For each field: the prefix of the fields for single axes, the default, and the minimum."""


@dataclass(frozen=True)
class PoolAxis:
    """The windows of a pool along one axis.

    `clipped`: no window may begin after the map and its padding. `floor`: the number of windows is rounded down.
    """

    size: int
    kernel: int
    stride: int
    pad: int
    clipped: bool
    floor: bool

    @property
    def count(self) -> int:
        """The number of windows."""
        room = self.size + 2 * self.pad - self.kernel
        count = (room // self.stride if self.floor else -(-room // self.stride)) + 1
        return count - (self.clipped and (count - 1) * self.stride >= self.size + self.pad)

    @property
    def after(self) -> int:
        """The padding on the far side that the windows need."""
        return max(0, (self.count - 1) * self.stride + self.kernel - self.size - self.pad)

    @property
    def valid(self) -> bool:
        """Whether there are windows, and each holds a part of the map or its padding."""
        return self.pad < self.kernel and 0 <= (self.count - 1) * self.stride < self.size + self.pad


def convolution(context: LayerContext) -> Blob:
    """Add a convolution; raises ConversionError."""
    parameters = context.layer.parameters.convolution_param
    channels, *sizes = context.map
    kernel, strides, pads, dilations = (_pair(context, parameters, name) for name in LENGTHS)
    outputs, groups = parameters.num_output, parameters.group
    if not groups or channels % groups or outputs % groups or parameters.axis not in (1, -3):
        raise context.refusal(f"expected axis 1, and group to divide {channels} and {outputs} channels, got {groups}")
    weights = context.take((outputs, channels // groups, *kernel), *[(outputs,)] * parameters.bias_term)
    shape = tuple(
        (size + 2 * pad - dilation * (length - 1) - 1) // stride + 1
        for size, length, stride, pad, dilation in zip(sizes, kernel, strides, pads, dilations, strict=True)
    )
    if min(shape) < 1:
        raise context.refusal(f"a kernel of {kernel} does not fit a map of {tuple(sizes)}; check --window")
    return context.add(
        "Conv",
        context.source,
        *weights,
        shape=(outputs, *shape),
        kernel_shape=kernel,
        strides=strides,
        pads=pads * 2,
        dilations=dilations,
        group=groups,
    )


def pooling(context: LayerContext) -> Blob:
    """Add a pool; raises ConversionError."""
    parameters = context.layer.parameters.pooling_param
    if parameters.pool == PoolingParameter.STOCHASTIC or len(context.layer.parameters.top) != 1:
        raise context.refusal("expected MAX or AVE with one top")
    average, (channels, *sizes) = parameters.pool == PoolingParameter.AVE, context.map
    if parameters.global_pooling:
        shape = (channels, 1, 1)
        if average:
            return context.add("GlobalAveragePool", context.source, shape=shape)
        return context.add("MaxPool", context.source, shape=shape, kernel_shape=sizes)
    kernel, strides, pads = (_pair(context, parameters, name) for name in ("kernel_size", "stride", "pad"))
    floor = parameters.round_mode == PoolingParameter.FLOOR
    axes = [
        PoolAxis(*lengths, clipped=any(pads), floor=floor) for lengths in zip(sizes, kernel, strides, pads, strict=True)
    ]
    if not all(axis.valid for axis in axes):
        raise context.refusal(
            f"a window of {kernel} does not fit a map of {tuple(sizes)} padded by {pads}; check --window"
        )
    if average:
        return _average(context, axes)
    return _pool(context, "MaxPool", axes, pads + [axis.after for axis in axes])


def _average(context: LayerContext, axes: list[PoolAxis]) -> Blob:
    before, after = [axis.pad for axis in axes], [axis.after for axis in axes]
    counted = [min(axis.pad, axis.after) for axis in axes]
    if counted == after:
        return _pool(context, "AveragePool", axes, before + after, count_include_pad=1)
    source = _padded(context, before + counted) if any(before) else context.source
    beyond = [0, 0, *(reach - own for reach, own in zip(after, counted, strict=True))]
    return _pool(context, "AveragePool", axes, beyond, source=source, count_include_pad=0)


def _padded(context: LayerContext, pads: list[int]) -> Blob:
    """Return the map with zeros around it; `pads` are top, left, bottom and right."""
    channels, height, width = context.map
    shape = (channels, height + pads[0] + pads[2], width + pads[1] + pads[3])
    return context.add("Pad", context.source, np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]), shape=shape)


def _pool(
    context: LayerContext,
    op: str,
    axes: list[PoolAxis],
    pads: list[int],
    *,
    source: Blob | None = None,
    **attributes: int,
) -> Blob:
    return context.add(
        op,
        source or context.source,
        shape=(context.map[0], *(axis.count for axis in axes)),
        kernel_shape=[axis.kernel for axis in axes],
        strides=[axis.stride for axis in axes],
        pads=pads,
        **attributes,
    )


def _pair(context: LayerContext, parameters: ConvolutionParameter | PoolingParameter, name: str) -> list[int]:
    """Return the lengths along height and width, from one field for both axes or one field for each."""
    prefix, default, least = LENGTHS[name]
    lengths = list(getattr(parameters, name))
    if prefix and any(parameters.HasField(f"{prefix}_{axis}") for axis in "hw"):
        lengths += [getattr(parameters, f"{prefix}_{axis}") for axis in "hw"]
    pair = (lengths or [default]) * (1 if len(lengths) > 1 else 2)
    if len(pair) != 2 or min(pair) < least or max(pair) > MAX_LENGTH:
        raise context.refusal(f"expected {name} from {least} to {MAX_LENGTH}, for both axes or each, got {lengths}")
    return pair
