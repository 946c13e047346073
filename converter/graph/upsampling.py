"""Operators that make a map larger by an integer factor f along an axis: Resize, ConvTranspose and DepthToSpace.

Element y = i·f + r of the output, with the phase 0 ≤ r < f, reads the elements i + o of the input, for some offsets o
that depend on r alone. Resize reads at the position i + x, where ONNX's coordinate transformation gives

    half_pixel    x = (r + ½) / f − ½        asymmetric    x = r / f        tf_half_pixel_for_nn    x = (r + ½) / f

and takes the element nearest to it, the two beside it (linear), or the four around it (cubic). Beyond its edges a map
repeats its first and last elements. ConvTranspose with kernel k, dilation d and first pad p reads i + (r + p − j·d) / f
for every j < k for which this is an integer. DepthToSpace reads element i, in other channels for each phase.

Refused: align_corners, whose positions depend on the size of the map, and tf_crop_and_resize, which cuts a part out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir

from converter.graph.nodes import constant_input, ints, kernel_shape
from converter.graph.refusals import refusal

HALF = Fraction(1, 2)
HALF_PIXELS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
"""Transformations that are equal for integer factors and maps of more than one element."""
REFUSED = {
    "align_corners": "whose positions depend on the size of the map",
    "tf_crop_and_resize": "which cuts a part out of the map",
}
"""Transformations that are refused, with the reasons."""
NEAREST: dict[str, Callable[[Fraction], int]] = {
    "round_prefer_floor": lambda position: math.ceil(position - HALF),
    "round_prefer_ceil": lambda position: math.floor(position + HALF),
    "floor": math.floor,
    "ceil": math.ceil,
}


@dataclass(frozen=True)
class AxisUpsampling:
    """Along one axis: the offsets that each phase reads. A map of n elements becomes (n − 1)·factor + `last`."""

    offsets: Sequence[Sequence[int]]
    last: int

    @property
    def factor(self) -> int:
        """Number of elements of the output for each element of the input."""
        return len(self.offsets)

    def output_size(self, size: int) -> int:
        """Return the number of elements that a map of `size` elements becomes."""
        return (size - 1) * self.factor + self.last


def upsampling(node: ir.Node) -> tuple[AxisUpsampling, AxisUpsampling]:
    """Return what a node of UPSAMPLING does along both axes; a Resize has constant scales. Raises UnsupportedError."""
    vertical, horizontal = (UPSAMPLING[node.op_type](node, axis) for axis in (0, 1))
    return vertical, horizontal


def _resize(node: ir.Node, axis: int) -> AxisUpsampling:
    factor = round(float(constant_input(node, 2)[2 + axis]))
    positions = [_position(node, phase, factor) for phase in range(factor)]
    if node.attributes.get_string("mode", "nearest") == "nearest":
        nearest = NEAREST[node.attributes.get_string("nearest_mode", "round_prefer_floor")]
        # at the edges, element i takes the place of a missing neighbour
        return AxisUpsampling([sorted({0, nearest(position)}) for position in positions], factor)
    return AxisUpsampling([_neighbours(node, position) for position in positions], factor)


def _position(node: ir.Node, phase: int, factor: int) -> Fraction:
    """Return the position that a phase reads, in elements of the input."""
    transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if transformation in HALF_PIXELS:
        return (phase + HALF) / factor - HALF
    if transformation == "asymmetric":
        return Fraction(phase, factor)
    if transformation == "tf_half_pixel_for_nn":
        return (phase + HALF) / factor
    reason = REFUSED.get(transformation, "which is not known")
    raise refusal(node, f"expected another coordinate transformation than {transformation!r}, {reason}")


def _neighbours(node: ir.Node, position: Fraction) -> Sequence[int]:
    """Return the elements between which a position is interpolated."""
    below, above = math.floor(position), math.ceil(position)
    is_cubic = node.attributes.get_string("mode", "nearest") == "cubic"
    return range(below - 1, above + 2) if is_cubic and below < above else [below, above]


def _transposed_convolution(node: ir.Node, axis: int) -> AxisUpsampling:
    kernel, factor = kernel_shape(node)[axis], ints(node, "strides", [1, 1])[axis]
    dilation, extra = ints(node, "dilations", [1, 1])[axis], ints(node, "output_padding", [0, 0])[axis]
    before, after = ints(node, "pads", [0] * 4)[axis::2]
    reads = [[phase + before - number * dilation for number in range(kernel)] for phase in range(factor)]
    offsets = [[place // factor for place in places if place % factor == 0] for places in reads]
    return AxisUpsampling([each or [0] for each in offsets], (kernel - 1) * dilation + 1 - before - after + extra)


def _depth_to_space(node: ir.Node, _: int) -> AxisUpsampling:
    factor = node.attributes["blocksize"].as_int()
    return AxisUpsampling([[0]] * factor, factor)


UPSAMPLING: dict[str, Callable[[ir.Node, int], AxisUpsampling]] = {
    "ConvTranspose": _transposed_convolution,
    "DepthToSpace": _depth_to_space,
    "Resize": _resize,
}
