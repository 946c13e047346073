"""The geometry of enlarged maps agrees with brute force: raise a line of pixels, and observe which cells change.

Weights are 1 and images are 0, so that nothing cancels: every pixel that a cell reads changes the cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from converter.errors import UnsupportedError
from converter.graph.geometry import AxisGeometry, geometries
from converter.graph.upsampling import NEAREST

TRANSFORMATIONS = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric")
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A layer along the rows of a map; `size` is its kernel, or the factor of a Resize."""

    op: str
    size: int
    attributes: tuple[tuple[str, Any], ...]

    def node(self, source: str, name: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        """Return the layer as a node with its constants."""
        if self.op == "Resize":
            constant, inputs = np.array([1, 1, self.size, 1], np.float32), [source, "", f"{name}.c"]
        else:
            constant, inputs = np.ones((1, 1, self.size, 1), np.float32), [source, f"{name}.c"]
        return helper.make_node(self.op, inputs, [name], name, **dict(self.attributes)), [
            numpy_helper.from_array(constant, f"{name}.c")
        ]


def resize(factor: int, **attributes: Any) -> Layer:
    return Layer("Resize", factor, tuple(attributes.items()))


def convolution(op: str, kernel: int, stride: int, dilation: int, pads: Sequence[int], extra: int = 0) -> Layer:
    attributes: Attributes = {"strides": [stride, 1], "dilations": [dilation, 1], "pads": [pads[0], 0, pads[1], 0]}
    if op == "ConvTranspose":
        attributes["output_padding"] = [min(extra, stride - 1), 0]
    return Layer(op, kernel, tuple(attributes.items()))


resizes = st.one_of(
    st.builds(
        resize,
        st.integers(2, 4),
        mode=st.just("nearest"),
        coordinate_transformation_mode=st.sampled_from(TRANSFORMATIONS),
        nearest_mode=st.sampled_from(list(NEAREST)),
    ),
    st.builds(
        resize,
        st.integers(2, 4),
        mode=st.sampled_from(["linear", "cubic"]),
        coordinate_transformation_mode=st.sampled_from(TRANSFORMATIONS),
    ),
)
pads = st.tuples(st.integers(0, 2), st.integers(0, 2))
small = st.integers(1, 3)
transposed = st.builds(convolution, st.just("ConvTranspose"), st.integers(1, 4), small, small, pads, st.integers(0, 2))
convolutions = st.builds(convolution, st.just("Conv"), st.integers(1, 4), st.integers(1, 4), small, pads)
strided = st.builds(convolution, st.just("Conv"), st.integers(1, 4), st.integers(2, 8), st.just(1), pads)
chains = st.tuples(strided, st.lists(st.one_of(resizes, transposed, convolutions), min_size=1, max_size=4)).map(
    lambda parts: [parts[0], *parts[1]]
)


def network(chain: Sequence[Layer]) -> onnx.ModelProto:
    """Return a network whose layers act along the rows of an image of one channel."""
    made = [layer.node(f"v{place - 1}" if place else "image", f"v{place}") for place, layer in enumerate(chain)]
    graph = helper.make_graph(
        [node for node, _ in made],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [helper.make_tensor_value_info(made[-1][0].output[0], TensorProto.FLOAT, None)],
        [constant for _, constants in made for constant in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def known(chain: Sequence[Layer], window: int) -> list[AxisGeometry]:
    """Return the geometry of every layer's output, along the rows."""
    graph = ir.from_proto(network(chain)).graph
    found = geometries(graph, (window, 1))
    return [found[node.outputs[0]].vertical for node in graph]


def reads(chain: Sequence[Layer], size: int) -> np.ndarray:
    """Return for each line of pixels and each cell whether the cell reads the pixels."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(network(chain).SerializeToString(), options)
    images = np.eye(size, dtype=np.float32)[:, None, :, None]
    found: np.ndarray = session.run(None, {"image": images})[0][:, 0, :, 0] != 0
    return found


@settings(deadline=None, max_examples=300)
@given(chains, st.integers(20, 60))
def test_cells_read_their_phase(chain: list[Layer], window: int) -> None:
    """A cell reads the pixels of its phase and no others, and a larger image on the lattice has the stated cells."""
    try:
        along = known(chain, window)
    except UnsupportedError:
        assume(False)
    assume(all(axis.output_size(window) > 0 for axis in along))
    own = along[-1]
    size = window + -(-60 // own.period) * own.period
    found = reads(chain, size)
    assert found.shape[1] == own.output_size(size)
    is_dense = all(map(reads_every_phase, chain))
    margin = own.receptive_field + 2 * own.period
    for cell, got in enumerate(found.T):
        reach = own.reaches[cell % len(own.reaches)]
        first, stop = cell * own.stride - reach.before, cell * own.stride + reach.after
        assert not got[: max(0, first)].any()
        assert not got[max(0, stop) :].any()
        assert own.padding_before >= reach.before
        assert own.receptive_field - own.padding_before >= reach.after
        if is_dense and margin <= first and stop <= size - margin:
            assert got[first]
            assert got[stop - 1]


def reads_every_phase(layer: Layer) -> bool:
    """Return whether every phase of a layer reads all elements that the geometry counts, and nothing cancels."""
    attributes = dict(layer.attributes)
    if layer.op == "ConvTranspose":
        stride, dilation = int(attributes["strides"][0]), int(attributes["dilations"][0])
        return len({number * dilation % stride for number in range(layer.size)}) == stride
    if attributes.get("mode") == "nearest":
        is_floor = attributes["coordinate_transformation_mode"] == "asymmetric"
        return bool(
            attributes["nearest_mode"] in (["floor"] if is_floor else ["round_prefer_floor", "round_prefer_ceil"])
        )
    return attributes.get("mode") != "cubic"
