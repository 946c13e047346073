"""Stride, receptive field and padding agree with brute force: raise a row of pixels, and observe which cells change.

Weights are 1 and images are 0, so that nothing cancels: every pixel that a cell reads changes the cell.
"""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from converter.errors import UnsupportedError
from converter.graph.geometry import AxisGeometry, Geometry2D, geometries

CHANNELS = 2
Layer = tuple[str, int, int, int, int, int]
"""Operator, kernel, stride, dilation, and pads before and after, along one axis; the kernel is 1 along the other."""

layers = st.tuples(
    st.sampled_from(["AveragePool", "Conv", "MaxPool"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)


def network(chains: list[list[Layer]], axis: int) -> onnx.ModelProto:
    """Return a network that adds the outputs of chains of layers, which act along one axis of the image."""
    nodes, weights, ends = [], {}, []
    for number, chain in enumerate(chains):
        value = "image"
        for position, (op, kernel, stride, dilation, before, after) in enumerate(chain):
            name, inputs = f"v{number}_{position}", [value]
            attributes: dict[str, Any] = {
                "kernel_shape": [kernel, 1][:: 1 - 2 * axis],
                "strides": [stride, 1][:: 1 - 2 * axis],
                "dilations": [dilation, 1][:: 1 - 2 * axis],
                "pads": [*[before, 0][:: 1 - 2 * axis], *[after, 0][:: 1 - 2 * axis]],
            }
            if op == "Conv":
                weights[f"{name}.w"] = np.ones((CHANNELS, CHANNELS, *attributes["kernel_shape"]), np.float32)
                inputs.append(f"{name}.w")
            if op == "AveragePool":
                attributes["count_include_pad"] = 1
            nodes.append(helper.make_node(op, inputs, [name], **attributes))
            value = name
        ends.append(value)
    nodes.append(helper.make_node("Sum", ends, ["y"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", CHANNELS, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def allowed(chain: list[Layer]) -> bool:
    """Pools take no pads as large as their kernels."""
    return all(op == "Conv" or max(pads) < kernel for op, kernel, _, _, *pads in chain)


def geometry(proto: onnx.ModelProto) -> Geometry2D:
    """Return the geometry that the converter computes for a network."""
    model = ir.from_proto(proto)
    return geometries(model.graph, (1, 1))[model.graph.outputs[0]]


def moved(proto: onnx.ModelProto, size: int, axis: int) -> np.ndarray:
    """Return for each line of pixels and each line of cells whether raising the pixels changes the cells."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options)
    lines = np.eye(size, dtype=np.float32)[:, None, :, None]
    images = np.broadcast_to(lines if axis == 0 else lines.swapaxes(2, 3), shape_of(size, axis))
    scores: np.ndarray = session.run(None, {"image": np.ascontiguousarray(images)})[0]
    moves: np.ndarray = (scores != 0).any(axis=(1, 3 - axis))
    return moves


def shape_of(size: int, axis: int) -> tuple[int, ...]:
    """Return the shape of a batch of images, one for each line of pixels, two pixels wide across the axis."""
    return (size, CHANNELS, size, 2) if axis == 0 else (size, CHANNELS, 2, size)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(layers, min_size=1, max_size=4), st.integers(1, 50), st.integers(0, 1))
def test_a_cell_reads_its_receptive_field_and_nothing_else(chain: list[Layer], size: int, axis: int) -> None:
    """Only lines within a cell's receptive field change it, and the first and last line do unless they are padding."""
    assume(allowed(chain))
    proto = network([chain], axis)
    own = geometry(proto)[axis]
    assume(all(behind.output_size(size) > 0 for behind in along(chain, axis)))
    found = moved(proto, size, axis)
    assert found.shape[1] == own.output_size(size)
    for cell, got in enumerate(found.T):
        first = cell * own.stride - own.padding_before
        last = first + own.receptive_field - 1
        assert not got[: max(0, first)].any()
        assert not got[max(0, last + 1) :].any()
        if first >= 0 and last < size:
            assert got[first]
            assert got[last]


def along(chain: list[Layer], axis: int) -> list[AxisGeometry]:
    """Return the geometry after every layer."""
    return [geometry(network([chain[:count]], axis))[axis] for count in range(1, len(chain) + 1)]


@settings(deadline=None, max_examples=150)
@given(st.lists(layers, min_size=1, max_size=3), st.lists(layers, min_size=1, max_size=3), st.integers(0, 1))
def test_branches_that_meet(one: list[Layer], other: list[Layer], axis: int) -> None:
    """The sum of two branches of one stride reads what either branch reads; branches of two strides are refused."""
    assume(allowed(one) and allowed(other))
    alone = [geometry(network([chain], axis))[axis] for chain in (one, other)]
    proto = network([one, other], axis)
    if alone[0].stride != alone[1].stride:
        with pytest.raises(UnsupportedError, match="not aligned: expected branches of one stride"):
            geometry(proto)
        return
    joined = geometry(proto)[axis]
    assert -joined.padding_before == min(-own.padding_before for own in alone)
    reach = max(own.receptive_field - own.padding_before for own in alone)
    assert joined.receptive_field - joined.padding_before == reach
    for size in range(1, 60):
        counts = {own.output_size(size) for own in alone}
        assert len(counts) > 1 or joined.output_size(size) in counts
