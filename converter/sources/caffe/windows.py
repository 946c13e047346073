"""Convolutions and pools.

A pool of Caffe's rounds the number of its windows up. Along an axis of n elements, with kernel k, stride s, padding p:

    windows = ⌈(n + 2p − k) / s⌉ + 1, less one where the last would begin behind n + p

so that the last ones may reach over the far edge. ONNX rounds down, and here gets that much padding on the far side:
(windows − 1)s + k − n − p. A maximum does not see it. An average divides by the part of its window that lies on the map
and its p, but not by what reaches further, so that p has to become part of the map first where there are both.
"""

from dataclasses import dataclass

import numpy as np

from converter.sources.caffe.graph import Blob, Step
from fullconv.protos.caffe_pb2 import ConvolutionParameter, PoolingParameter

MAX_LENGTH = 4096
"""Of kernels, strides and pads, in elements of the map."""
LENGTHS = {"kernel_size": ("kernel", 0, 1), "stride": ("stride", 1, 1), "pad": ("pad", 0, 0), "dilation": ("", 1, 1)}
"""What the fields for single axes begin with, the default, and the least."""


@dataclass(frozen=True)
class Windows:
    """The windows of a pool along one axis; `clipped`: none may begin behind the map and its padding."""

    size: int
    kernel: int
    stride: int
    pad: int
    clipped: bool
    floor: bool

    @property
    def count(self) -> int:
        """How many there are."""
        room = self.size + 2 * self.pad - self.kernel
        count = (room // self.stride if self.floor else -(-room // self.stride)) + 1
        return count - (self.clipped and (count - 1) * self.stride >= self.size + self.pad)

    @property
    def after(self) -> int:
        """Padding on the far side that as many need."""
        return max(0, (self.count - 1) * self.stride + self.kernel - self.size - self.pad)

    @property
    def valid(self) -> bool:
        """Whether there are any, and each one has something of the map or its padding."""
        return self.pad < self.kernel and 0 <= (self.count - 1) * self.stride < self.size + self.pad


def convolution(step: Step) -> Blob:
    """Add a convolution; raises ConversionError."""
    parameters = step.layer.parameters.convolution_param
    channels, *sizes = step.map
    kernel, strides, pads, dilations = (_pair(step, parameters, name) for name in LENGTHS)
    outputs, groups = parameters.num_output, parameters.group
    if not groups or channels % groups or outputs % groups or parameters.axis not in (1, -3):
        raise step.refusal(f"expected axis 1, and group to divide {channels} and {outputs} channels, got {groups}")
    weights = step.take((outputs, channels // groups, *kernel), *[(outputs,)] * parameters.bias_term)
    shape = tuple(
        (size + 2 * pad - dilation * (length - 1) - 1) // stride + 1
        for size, length, stride, pad, dilation in zip(sizes, kernel, strides, pads, dilations, strict=True)
    )
    if min(shape) < 1:
        raise step.refusal(f"a kernel of {kernel} does not fit a map of {tuple(sizes)}; check --window")
    return step.add(
        "Conv",
        step.source,
        *weights,
        shape=(outputs, *shape),
        kernel_shape=kernel,
        strides=strides,
        pads=pads * 2,
        dilations=dilations,
        group=groups,
    )


def pooling(step: Step) -> Blob:
    """Add a pool; raises ConversionError."""
    parameters = step.layer.parameters.pooling_param
    if parameters.pool == PoolingParameter.STOCHASTIC or len(step.layer.parameters.top) != 1:
        raise step.refusal("expected MAX or AVE with one top")
    average, (channels, *sizes) = parameters.pool == PoolingParameter.AVE, step.map
    if parameters.global_pooling:
        shape = (channels, 1, 1)
        if average:
            return step.add("GlobalAveragePool", step.source, shape=shape)
        return step.add("MaxPool", step.source, shape=shape, kernel_shape=sizes)
    kernel, strides, pads = (_pair(step, parameters, name) for name in ("kernel_size", "stride", "pad"))
    floor = parameters.round_mode == PoolingParameter.FLOOR
    axes = [
        Windows(*lengths, clipped=any(pads), floor=floor) for lengths in zip(sizes, kernel, strides, pads, strict=True)
    ]
    if not all(axis.valid for axis in axes):
        raise step.refusal(
            f"a window of {kernel} does not fit a map of {tuple(sizes)} padded by {pads}; check --window"
        )
    if average:
        return _average(step, axes)
    return _pool(step, "MaxPool", axes, pads + [axis.after for axis in axes])


def _average(step: Step, axes: list[Windows]) -> Blob:
    before, after = [axis.pad for axis in axes], [axis.after for axis in axes]
    counted = [min(axis.pad, axis.after) for axis in axes]
    if counted == after:
        return _pool(step, "AveragePool", axes, before + after, count_include_pad=1)
    source = _padded(step, before + counted) if any(before) else step.source
    beyond = [0, 0, *(reach - own for reach, own in zip(after, counted, strict=True))]
    return _pool(step, "AveragePool", axes, beyond, source=source, count_include_pad=0)


def _padded(step: Step, pads: list[int]) -> Blob:
    """The map with zeros around it."""
    channels, height, width = step.map
    shape = (channels, height + pads[0] + pads[2], width + pads[1] + pads[3])
    return step.add("Pad", step.source, np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]), shape=shape)


def _pool(
    step: Step, op: str, axes: list[Windows], pads: list[int], *, source: Blob | None = None, **attributes: int
) -> Blob:
    return step.add(
        op,
        source or step.source,
        shape=(step.map[0], *(axis.count for axis in axes)),
        kernel_shape=[axis.kernel for axis in axes],
        strides=[axis.stride for axis in axes],
        pads=pads,
        **attributes,
    )


def _pair(step: Step, parameters: ConvolutionParameter | PoolingParameter, name: str) -> list[int]:
    """A length along the height and along the width: one field for both, or one for each."""
    prefix, default, least = LENGTHS[name]
    lengths = list(getattr(parameters, name))
    if prefix and any(parameters.HasField(f"{prefix}_{axis}") for axis in "hw"):
        lengths += [getattr(parameters, f"{prefix}_{axis}") for axis in "hw"]
    pair = (lengths or [default]) * (1 if len(lengths) > 1 else 2)
    if len(pair) != 2 or min(pair) < least or max(pair) > MAX_LENGTH:
        raise step.refusal(f"expected {name} from {least} to {MAX_LENGTH}, for both axes or each, got {lengths}")
    return pair
