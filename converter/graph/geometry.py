"""Stride, receptive field and effective padding of a network, by walking its graph from the input to the scores.

Per axis, a value's element y reads pixels [y·S − P, y·S − P + R) of the image, and Q pixels of padding lie beyond the
far edge. The image itself has S = 1, R = 1, P = Q = 0. A layer with kernel k, dilation d, stride s and paddings p, q
reaches k' = (k − 1)d + 1 elements:

    R ← R + (k' − 1)S,    P ← P + pS,    Q ← Q + qS,    S ← sS

Branches that meet must agree on S; then P ← max Pᵢ, R ← P + max(Rᵢ − Pᵢ), and Q so that the number of elements stays.

An operator that enlarges a map by a factor f (`graph.upsampling`) divides S by f. Its elements have f phases, each of
which reads at other places relative to its own, so that only shifts of the image by f·S pixels, the period, shift the
value. The number of elements then depends on the image's size modulo the period; on the lattice this is the window's
size. A layer of stride s keeps every sth phase. At the scores one phase remains.

Operators without a rule here are refused, and the error names them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.nodes import constant_input, ints, kernel_shape
from converter.graph.operators import ARITHMETIC, ELEMENTWISE, REDUCTIONS, WINDOWED
from converter.graph.refusals import position_constant, refusal
from converter.graph.upsampling import UPSAMPLING, AxisUpsampling, upsampling

Window = tuple[int, int]
"""Height and width of a window in pixels."""


class Reach(NamedTuple):
    """The pixels that the element y of a value reads: [y·S − before, y·S + after)."""

    before: int
    after: int


@dataclass(frozen=True)
class AxisGeometry:
    """One value's geometry along one axis; lengths in pixels of the image.

    `phases` holds the reach of each of n phases, if the receptive field is not that of every element. Element y has
    phase y mod n.
    """

    stride: int = 1
    receptive_field: int = 1
    padding_before: int = 0
    padding_after: int = 0
    phases: tuple[Reach, ...] = ()

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """The reach of every phase; a value without phases has one."""
        return self.phases or (Reach(self.padding_before, self.receptive_field - self.padding_before),)

    @property
    def period(self) -> int:
        """Pixels: if the image is shifted by a multiple of them, the value is shifted and not changed."""
        return self.stride * len(self.reaches)

    @property
    def smallest(self) -> int:
        """Pixels of the smallest image for which the value has an element."""
        return self.receptive_field - self.padding_before - self.padding_after

    def after_layer(self, *, kernel: int, stride: int, dilation: int, before: int, after: int) -> "AxisGeometry":
        """Return the geometry after a convolution or pool, whose lengths are in elements of this value."""
        count = len(self.reaches)
        offsets = range(-before, kernel * dilation - before, dilation)
        return _axis_geometry(
            self.stride * stride,
            [self._reach(phase * stride, offsets) for phase in range(count // math.gcd(count, stride))],
            self.smallest + ((kernel - 1) * dilation - before - after) * self.stride,
        )

    def after_upsampling(self, layer: AxisUpsampling, window: int) -> "AxisGeometry":
        """Return the geometry after an operator whose factor divides the stride, for a window in pixels."""
        stride, count = self.stride // layer.factor, self.output_size(window)
        reaches = list[Reach]()
        for element in range(len(self.reaches)):
            for phase, offsets in enumerate(layer.offsets):
                reach = self._reach(element, offsets)
                reaches.append(Reach(reach.before + phase * stride, reach.after - phase * stride))
        unread = self.slack(window) % stride
        return _axis_geometry(stride, reaches, window - unread - (layer.output_size(count) - 1) * stride)

    def _reach(self, element: int, offsets: Iterable[int]) -> Reach:
        """Return the reach of an element at the place of `element`, which reads the elements at offsets from it."""
        reaches = self.reaches
        read = [(reaches[(element + offset) % len(reaches)], offset * self.stride) for offset in offsets]
        return Reach(
            max(reach.before - pixels for reach, pixels in read), max(reach.after + pixels for reach, pixels in read)
        )

    def merge(self, other: "AxisGeometry") -> "AxisGeometry":
        """Return the geometry where two branches meet; raises ValueError if their strides differ."""
        if self.stride != other.stride:
            raise ValueError(f"expected branches of one stride, got {self.stride} and {other.stride}")
        count = math.lcm(len(self.reaches), len(other.reaches))
        pairs = zip(*(axis.reaches * (count // len(axis.reaches)) for axis in (self, other)), strict=True)
        reaches = [Reach(max(one.before, two.before), max(one.after, two.after)) for one, two in pairs]
        return _axis_geometry(self.stride, reaches, min(self.smallest, other.smallest))

    def slack(self, window: int) -> int:
        """Return the unread pixels at a window's far edge; if a window gives one cell, 0 <= slack < stride."""
        return window + self.padding_before + self.padding_after - self.receptive_field

    def output_size(self, window: int) -> int:
        """Return the number of elements that the value has for a window of `window` pixels."""
        return self.slack(window) // self.stride + 1

    def is_exact(self, window: int) -> bool:
        """Return whether an element reads its own window and nothing else."""
        return self.padding_before == 0 and self.receptive_field <= window


def _axis_geometry(stride: int, reaches: Sequence[Reach], smallest: int) -> AxisGeometry:
    """Return the geometry of a value with these phases, which has an element for images of `smallest` pixels."""
    before = max(0, *(reach.before for reach in reaches))
    after = max(smallest, *(reach.after for reach in reaches))
    phases = () if reaches == [Reach(before, after)] else tuple(reaches)
    return AxisGeometry(stride, before + after, before, after - smallest, phases)


class Geometry2D(NamedTuple):
    """One value's geometry along both axes."""

    vertical: AxisGeometry
    horizontal: AxisGeometry

    def after_layer(
        self,
        *,
        kernel: Sequence[int] = (1, 1),
        strides: Sequence[int] = (1, 1),
        dilations: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0, 0, 0),
    ) -> "Geometry2D":
        """Return the geometry after a convolution or pool; `pads` are top, left, bottom and right."""
        vertical, horizontal = (
            self[axis].after_layer(
                kernel=kernel[axis],
                stride=strides[axis],
                dilation=dilations[axis],
                before=pads[axis],
                after=pads[axis + 2],
            )
            for axis in (0, 1)
        )
        return Geometry2D(vertical, horizontal)

    def merge(self, other: "Geometry2D") -> "Geometry2D":
        """Return the geometry where two branches meet; raises ValueError if their strides differ."""
        return Geometry2D(self.vertical.merge(other.vertical), self.horizontal.merge(other.horizontal))

    def output_size(self, window: Window) -> list[int]:
        """Return the rows and columns that the value has for one window (height, width)."""
        return [axis.output_size(size) for axis, size in zip(self, window, strict=True)]


def geometries(graph: ir.Graph, window: Window) -> Mapping[ir.Value, Geometry2D]:
    """Return the geometry of every value that depends on the image, for a window; raises UnsupportedError."""
    known = image_geometry(graph)
    for node in graph:
        propagate(known, node, window)
    return known


def output_geometry(known: Mapping[ir.Value, Geometry2D], graph: ir.Graph) -> Geometry2D:
    """Return the geometry of all outputs together; raises UnsupportedError if their strides differ."""
    try:
        return reduce(Geometry2D.merge, [known[output] for output in graph.outputs])
    except ValueError:
        strides = ", ".join(
            f"{output.name} of {known[output].vertical.stride}×{known[output].horizontal.stride} pixels"
            for output in graph.outputs
        )
        raise UnsupportedError(f"also: expected outputs of one stride, got {strides}; leave --also out") from None


def image_geometry(graph: ir.Graph) -> dict[ir.Value, Geometry2D]:
    """Return the geometry of the image alone, for `propagate` to extend node by node."""
    return {graph.inputs[0]: Geometry2D(AxisGeometry(), AxisGeometry())}


def propagate(known: dict[ir.Value, Geometry2D], node: ir.Node, window: Window) -> None:
    """Add the geometry of a node's outputs, if they depend on the image; raises UnsupportedError."""
    sources = [known[value] for value in node.inputs if value in known]
    if sources and node.op_type in UPSAMPLING:
        known[node.outputs[0]] = _upsample(node, sources[0], window)
    elif sources:
        known.update(dict.fromkeys(node.outputs, RULES.get(node.op_type, _no_rule)(node, sources)))


def check_window(geometry: Geometry2D, window: Window) -> None:
    """Raise UnsupportedError unless one window gives one cell."""
    for name, axis, size in zip(("height", "width"), geometry, window, strict=True):
        if not 0 <= axis.slack(size) < axis.stride:
            raise UnsupportedError(
                f"window: a {name} of {size} does not give one cell (stride {axis.stride}, receptive field "
                f"{axis.receptive_field}, padding {axis.padding_before} and {axis.padding_after}); check --window"
            )


Rule = Callable[[ir.Node, Sequence[Geometry2D]], Geometry2D]
"""Returns the geometry of a node's outputs, given that of its inputs."""


def _no_rule(node: ir.Node, _: Sequence[Geometry2D]) -> Geometry2D:
    raise refusal(node, "its behaviour on larger images is not known")


def _pointwise(node: ir.Node, sources: Sequence[Geometry2D]) -> Geometry2D:
    """Return the geometry of operators on one value, or on several values at the same position."""
    for value in node.inputs:
        if value is not None and value.const_value is not None and _varies_in_space(value.const_value):
            raise position_constant(node, value.name)
    try:
        return reduce(Geometry2D.merge, sources)
    except ValueError as error:
        raise refusal(node, f"not aligned: {error}") from None


def _varies_in_space(constant: ir.TensorProtocol) -> bool:
    """Return whether a constant, broadcast to a map, has different values at different rows or columns."""
    shape = constant.shape.numpy()
    return len(shape) > 2 and any(size > 1 for size in shape[-2:])


def _windowed(node: ir.Node, sources: Sequence[Geometry2D]) -> Geometry2D:
    """Return the geometry of convolutions and pools."""
    return sources[0].after_layer(
        kernel=kernel_shape(node),
        strides=ints(node, "strides", [1, 1]),
        dilations=ints(node, "dilations", [1, 1]),
        pads=ints(node, "pads", [0, 0, 0, 0]),
    )


def _upsample(node: ir.Node, source: Geometry2D, window: Window) -> Geometry2D:
    """Return the geometry of operators that make a map larger."""
    layers = upsampling(node)
    for axis, layer in zip(source, layers, strict=True):
        if axis.stride % layer.factor:
            raise refusal(
                node,
                f"expected a factor that divides the {axis.stride} pixels between the elements of its input, got "
                f"{layer.factor}",
            )
    return Geometry2D(*map(AxisGeometry.after_upsampling, source, layers, window))


def _over_channels(node: ir.Node, sources: Sequence[Geometry2D]) -> Geometry2D:
    axis = node.attributes.get_int("axis", -1)
    if axis % 4 != 1:
        raise refusal(node, f"expected axis 1 (channels), got {axis}, which looks along the map")
    return _pointwise(node, sources)


def _slice(node: ir.Node, sources: Sequence[Geometry2D]) -> Geometry2D:
    """Return the geometry of a Slice of channels, or of rows and columns, which equals a kernel with one weight."""
    starts, stops, axes = (constant_input(node, position).tolist() for position in (1, 2, 3))
    if axes != [2, 3]:
        return _pointwise(node, sources)
    kernel = [1 + start - min(stop, 0) for start, stop in zip(starts, stops, strict=True)]
    return sources[0].after_layer(kernel=kernel)


def _pad(node: ir.Node, sources: Sequence[Geometry2D]) -> Geometry2D:
    """Return the geometry of a Pad of a map, which equals a kernel of one element with that padding."""
    pads = constant_input(node, 1).tolist()
    return sources[0].after_layer(pads=[*pads[2:4], *pads[6:8]])


POINTWISE = ELEMENTWISE | ARITHMETIC | {"BatchNormalization", "DequantizeLinear", "LRN", "QuantizeLinear", "Where"}
ALONG_CHANNELS = REDUCTIONS | {"Gather", "LayerNormalization", "Split", "Transpose"}
"""Operators that convolutionalization leaves in a graph only where they work along the channels."""
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE | ALONG_CHANNELS, _pointwise),
    **dict.fromkeys(WINDOWED, _windowed),
    **dict.fromkeys(["Concat", "LogSoftmax", "Softmax"], _over_channels),
    "Pad": _pad,
    "Slice": _slice,
}
