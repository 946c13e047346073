"""log(Σ exp x) over a rectangle at every position, as accurate as ONNX's ReduceLogSumExp.

The largest value of a rectangle is subtracted before exp, so that nothing overflows. No pool can do that, because
rectangles at different positions have different largest values. Therefore a convolution copies the values of a row of
the rectangle to channels, and operators on several maps reduce them; then the same is done along the columns.
"""

import numpy as np
import onnx_ir as ir

from converter.graph.affine import FeatureMap
from converter.graph.convolutionalizer import Convolutionalizer
from converter.graph.nodes import add_constant


def log_sum_exp(state: Convolutionalizer, node: ir.Node, source: FeatureMap, extent: tuple[int, int]) -> FeatureMap:
    """Emit log(Σ exp x) over `extent` (rows, columns) of each channel of a map at every position, stride 1."""
    for axis, count in enumerate(extent):
        if count > 1:
            source = _of_maps(state, node, _shifted(state, node, source, axis, count))
    return source


def _shifted(state: Convolutionalizer, node: ir.Node, source: FeatureMap, axis: int, count: int) -> list[FeatureMap]:
    """Return the map from its first row or column on, from its second on, and so on, `count` maps of one size."""
    batch, channels, *extent = source.size
    kernel = [1, 1]
    kernel[axis], extent[axis] = count, extent[axis] - count + 1
    weights = np.tile(np.eye(count, dtype=np.float32), (channels, 1)).reshape(channels * count, 1, *kernel)
    inputs = [source.value, add_constant(state.graph, f"{node.name}.shift", weights)]
    size = (batch, channels * count, extent[0], extent[1])
    copies = state.emit(node, "Conv", inputs, size, kernel_shape=kernel, group=channels)
    return [state.select_channels(node, copies, np.arange(channels) * count + place) for place in range(count)]


def _of_maps(state: Convolutionalizer, node: ir.Node, maps: list[FeatureMap]) -> FeatureMap:
    """Return log(Σ exp x) of the elements of several maps at each position."""
    size = maps[0].size
    largest = state.emit(node, "Max", [each.value for each in maps], size)
    differences = [state.emit(node, "Sub", [each.value, largest.value], size) for each in maps]
    powers = [state.emit(node, "Exp", [each.value], size) for each in differences]
    total = state.emit(node, "Sum", [each.value for each in powers], size)
    logarithm = state.emit(node, "Log", [total.value], size)
    return state.emit(node, "Add", [logarithm.value, largest.value], size)
