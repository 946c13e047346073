"""Stride, receptive field and effective padding of a network, by walking its graph from the input to the scores.

Per axis, a value's element y reads pixels [y·S − P, y·S − P + R) of the image, and Q pixels of padding lie beyond the
far edge. The image itself has S = 1, R = 1, P = Q = 0. A layer with kernel k, dilation d, stride s and paddings p, q
reaches k' = (k − 1)d + 1 elements:

    R ← R + (k' − 1)S,    P ← P + pS,    Q ← Q + qS,    S ← sS

Branches that meet must agree on S; then P ← max Pᵢ, R ← P + max(Rᵢ − Pᵢ), and Q so that the number of elements stays.
What has no rule here is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.nodes import constant_input, ints, kernel_shape
from converter.graph.operators import ARITHMETIC, ELEMENTWISE, REDUCTIONS, WINDOWED
from converter.graph.refusals import position_constant, refusal


@dataclass(frozen=True)
class Axis:
    """One value's geometry along one axis; lengths in pixels of the image."""

    stride: int = 1
    receptive_field: int = 1
    padding_before: int = 0
    padding_after: int = 0

    def through(self, *, kernel: int, stride: int, dilation: int, before: int, after: int) -> "Axis":
        """The geometry behind a convolution or pool."""
        return Axis(
            stride=self.stride * stride,
            receptive_field=self.receptive_field + (kernel - 1) * dilation * self.stride,
            padding_before=self.padding_before + before * self.stride,
            padding_after=self.padding_after + after * self.stride,
        )

    def joined(self, other: "Axis") -> "Axis":
        """The geometry of two branches that meet; ValueError if they are not aligned."""
        if self.stride != other.stride:
            raise ValueError(f"expected branches of one stride, got {self.stride} and {other.stride}")
        before = max(self.padding_before, other.padding_before)
        reaches = [axis.receptive_field - axis.padding_before for axis in (self, other)]
        missing = [axis.padding_after - reach for axis, reach in zip((self, other), reaches, strict=True)]
        return Axis(self.stride, before + max(reaches), before, max(reaches) + max(missing))

    def slack(self, window: int) -> int:
        """Pixels of a window's far edge that the network does not read; one cell means 0 <= slack < stride."""
        return window + self.padding_before + self.padding_after - self.receptive_field

    def elements(self, window: int) -> int:
        """Elements that a window gives."""
        return self.slack(window) // self.stride + 1

    def exact(self, window: int) -> bool:
        """Whether a cell reads its own window and nothing else."""
        return self.padding_before == 0 and self.receptive_field <= window


Plane = tuple[Axis, Axis]
"""Vertical and horizontal geometry."""


def planes(graph: ir.Graph) -> Mapping[ir.Value, Plane]:
    """The geometry of every value that depends on the image; raises UnsupportedError."""
    known = of_image(graph)
    for node in graph:
        extend(known, node)
    return known


def of_image(graph: ir.Graph) -> dict[ir.Value, Plane]:
    """The geometry of the image itself, to be extended node by node."""
    return {graph.inputs[0]: (Axis(), Axis())}


def extend(known: dict[ir.Value, Plane], node: ir.Node) -> None:
    """Add the geometry of what a node makes, if it depends on the image; raises UnsupportedError."""
    sources = [known[value] for value in node.inputs if value in known]
    if sources:
        known.update(dict.fromkeys(node.outputs, RULES.get(node.op_type, _no_rule)(node, sources)))


def elements(plane: Plane, window: tuple[int, int]) -> list[int]:
    """Returns the rows and columns that a value has for one window (height, width)."""
    return [axis.elements(size) for axis, size in zip(plane, window, strict=True)]


def check_window(plane: Plane, window: tuple[int, int]) -> None:
    """Raise UnsupportedError unless one window gives one cell."""
    for name, axis, size in zip(("height", "width"), plane, window, strict=True):
        if not 0 <= axis.slack(size) < axis.stride:
            raise UnsupportedError(
                f"window: a {name} of {size} does not give one cell (stride {axis.stride}, receptive field "
                f"{axis.receptive_field}, padding {axis.padding_before} and {axis.padding_after}); check --window"
            )


Rule = Callable[[ir.Node, list[Plane]], Plane]


def _no_rule(node: ir.Node, _: list[Plane]) -> Plane:
    raise refusal(node, "it is not known how this operator behaves on larger images")


def _join(node: ir.Node, sources: list[Plane]) -> Plane:
    """Pointwise operators, of one value or of several."""
    for value in node.inputs:
        if value is not None and value.const_value is not None and _varies_in_space(value.const_value):
            raise position_constant(node, value.name)
    (vertical, horizontal), *others = sources
    try:
        for other in others:
            vertical, horizontal = vertical.joined(other[0]), horizontal.joined(other[1])
    except ValueError as error:
        raise refusal(node, f"not aligned: {error}") from None
    return vertical, horizontal


def _varies_in_space(constant: ir.TensorProtocol) -> bool:
    """Whether a constant broadcasts to a map with values of its own for some rows or columns."""
    shape = constant.shape.numpy()
    return len(shape) > 2 and any(size > 1 for size in shape[-2:])


def _window(node: ir.Node, sources: list[Plane]) -> Plane:
    """Convolutions and pools."""
    kernel = kernel_shape(node)
    pads = ints(node, "pads", [0, 0, 0, 0])
    strides, dilations = ints(node, "strides", [1, 1]), ints(node, "dilations", [1, 1])
    vertical, horizontal = (
        sources[0][axis].through(
            kernel=kernel[axis],
            stride=strides[axis],
            dilation=dilations[axis],
            before=pads[axis],
            after=pads[axis + 2],
        )
        for axis in (0, 1)
    )
    return vertical, horizontal


def _over_channels(node: ir.Node, sources: list[Plane]) -> Plane:
    axis = node.attributes.get_int("axis", -1)
    if axis % 4 != 1:
        raise refusal(node, f"expected axis 1 (channels), got {axis}, which looks along the map")
    return _join(node, sources)


def _slice(node: ir.Node, sources: list[Plane]) -> Plane:
    """Channels of a map; or a map without some rows and columns at its edges: a kernel of one weight."""
    starts, stops, axes = (constant_input(node, position).tolist() for position in (1, 2, 3))
    if axes != [2, 3]:
        return _join(node, sources)
    vertical, horizontal = (
        sources[0][axis].through(kernel=1 + starts[axis] - min(stops[axis], 0), stride=1, dilation=1, before=0, after=0)
        for axis in (0, 1)
    )
    return vertical, horizontal


def _pad(node: ir.Node, sources: list[Plane]) -> Plane:
    """A map that grows at its borders; a kernel of one element with that padding."""
    pads = constant_input(node, 1).tolist()
    before, after = pads[2:4], pads[6:8]
    vertical, horizontal = (
        sources[0][axis].through(kernel=1, stride=1, dilation=1, before=before[axis], after=after[axis])
        for axis in (0, 1)
    )
    return vertical, horizontal


POINTWISE = ELEMENTWISE | ARITHMETIC | {"BatchNormalization", "DequantizeLinear", "LRN", "QuantizeLinear", "Where"}
OF_CHANNELS = REDUCTIONS | {"Gather", "LayerNormalization", "Split", "Transpose"}
"""What lifting leaves of these is along the channels alone."""
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE | OF_CHANNELS, _join),
    **dict.fromkeys(WINDOWED, _window),
    **dict.fromkeys(["Concat", "LogSoftmax", "Softmax"], _over_channels),
    "Pad": _pad,
    "Slice": _slice,
}
