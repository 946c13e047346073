"""The passes that make grids: convolutions of the head, other strides, reduced precision; and unchanged graphs."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx_ir.passes.common import RemoveUnusedNodesPass
from support.graphs import model, operators, run, serialised

from converter.errors import UnsupportedError
from converter.graph.geometry import geometries
from converter.graph.nodes import ints
from converter.graph.passes.align_branches import AlignBranchesPass
from converter.graph.passes.convolutionalize import ConvolutionalizePass, convolutionalize
from converter.graph.passes.crop_grid import CropGridPass
from converter.graph.passes.infer_types import InferTypesPass
from converter.graph.passes.quantize import QuantizePass
from converter.graph.passes.restride import RestridePass
from converter.graph.trace import trace

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
WEIGHTS = RNG.standard_normal((64, 5)).astype(np.float32)
LARGE = RNG.standard_normal((1, 3, 26, 34)).astype(np.float32)
WINDOW = (10, 10)


def classifier(image: str = "float[N,3,10,10]", before: str = "", source: str = "image") -> ir.Model:
    """Return a convolution of stride 2 and a fully connected layer: stride 2, a window of 10 pixels."""
    return model(
        f"""image: {image} -> y: float[N,5]
        {before}
        c = Conv <strides = [2, 2]> ({source}, k)
        r = Relu (c)
        f = Flatten (r)
        y = Gemm (f, w)""",
        k=KERNEL,
        w=WEIGHTS,
    )


def grid() -> ir.Model:
    """Return the same network as it is converted: its grid of scores is (N, 5, rows, cols)."""
    return model(
        """image: float[N,3,H,W] -> y: float[N,5,rows,cols]
        c = Conv <strides = [2, 2]> (image, k)
        r = Relu (c)
        y = Conv (r, w)""",
        k=KERNEL,
        w=WEIGHTS.T.reshape(5, 4, 4, 4).copy(),
    )


def assert_untouched(each: ir.passes.PassBase, network: ir.Model) -> None:
    """Check that a pass returns the same object with the same bytes."""
    before = serialised(network)
    result = each(network)
    assert result.model is network
    assert not result.modified
    assert serialised(network) == before


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_convolutionalize(tmp_path: Path, layout: str) -> None:
    """The fully connected layer becomes a convolution as large as its map, and every window gets its own scores."""
    before = "t = Transpose <perm = [0, 3, 1, 2]> (image)"
    network = classifier() if layout == "NCHW" else classifier("float[N,10,10,3]", before, "t")
    original, shapes = network.clone(), trace(network, WINDOW, layout, tmp_path).shapes
    result = convolutionalize(network, shapes, layout)
    assert result.model is network
    assert result.modified
    assert [(each.node, each.was, each.now) for each in result.rewrites] == [("y", "Gemm 64→5", "Conv 4×4, 4→5")]
    assert result.shapes[network.graph.outputs[0]] == (1, 5, 1, 1)
    open_ends(network, layout)
    RemoveUnusedNodesPass()(network)
    image = LARGE if layout == "NCHW" else np.moveaxis(LARGE, 1, -1)
    scores = run(network, np.ascontiguousarray(image))
    assert scores.shape == (1, 5, 9, 13)
    for row, col in np.ndindex(9, 13):
        crop = LARGE[:, :, 2 * row : 2 * row + 10, 2 * col : 2 * col + 10]
        crop = crop if layout == "NCHW" else np.moveaxis(crop, 1, -1)
        assert_allclose(scores[:, :, row, col], run(original, np.ascontiguousarray(crop)), rtol=0, atol=1e-4)


def open_ends(network: ir.Model, layout: str) -> None:
    """Make the graph accept images of any size."""
    network.graph.inputs[0].shape = ir.Shape([3 if axis == "C" else axis for axis in layout])
    network.graph.outputs[0].shape = None


def test_networks_of_grids_need_no_convolutionalizing(tmp_path: Path) -> None:
    """A network whose output is a map with one cell per window stays unchanged."""
    network = grid()
    shapes = trace(network, WINDOW, "NCHW", tmp_path).shapes
    assert_untouched(ConvolutionalizePass(shapes, "NCHW"), network)


def test_branches_must_be_inlined_before(tmp_path: Path) -> None:
    """A subgraph violates the precondition, because the pass would not see the values of a map that it reads."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,3,10,10]
        y = If (z) <then_branch = then () => (float a) { a = Neg (image) },
                    else_branch = other () => (float b) { b = Abs (image) }>""",
        z=np.array(True),
    )
    shapes = trace(network, WINDOW, "NCHW", tmp_path).shapes
    with pytest.raises(ir.passes.PreconditionError, match="got 1, 1 and 2"):
        ConvolutionalizePass(shapes, "NCHW")(network)


def test_a_finer_stride_dilates() -> None:
    """Stride 1 instead of 2: the stride is removed, the next layer is dilated, and every second cell is as before."""
    network, native = grid(), run(grid(), LARGE)
    assert RestridePass(1, WINDOW)(network).modified
    assert ints(network.graph.node("c"), "strides", []) == [1, 1]
    assert ints(network.graph.node("y"), "dilations", []) == [2, 2]
    finer = run(network, LARGE)
    assert_allclose(finer[:, :, ::2, ::2][:, :, :9, :13], native, rtol=0, atol=1e-4)
    assert_untouched(RestridePass(1, WINDOW), network)


def test_a_coarser_stride_strides_the_layer_of_the_window() -> None:
    """Stride 6 instead of 2: the layer that reads the whole window has stride 3."""
    network, native = grid(), run(grid(), LARGE)
    assert RestridePass(6, WINDOW)(network).modified
    assert ints(network.graph.node("y"), "strides", []) == [3, 3]
    assert_allclose(run(network, LARGE), native[:, :, ::3, ::3], rtol=0, atol=1e-4)
    assert_untouched(RestridePass(6, WINDOW), network)


def test_the_native_stride_changes_nothing() -> None:
    """A network that already has the stride stays unchanged."""
    assert_untouched(RestridePass(2, WINDOW), grid())


def test_averages_that_leave_wide_padding_out_are_refused() -> None:
    """At a finer stride the pads would be as wide as the kernel; a Pad instead of them would be counted."""
    network = model(
        """image: float[N,3,H,W] -> y: float[N,3,rows,cols]
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (image)
        a = AveragePool <kernel_shape = [3, 3], pads = [2, 2, 2, 2]> (p)
        y = MaxPool <kernel_shape = [7, 7]> (a)"""
    )
    with pytest.raises(UnsupportedError, match=r"node 'a' \(AveragePool\): an average that does not count its padding"):
        RestridePass(1, WINDOW)(network)


BRANCHES = """image: float[N,3,H,W] -> y: float[N,4,rows,cols]
    a = Conv <strides = [%s, %s]> (image, k)
    p = AveragePool <kernel_shape = [2, 2], strides = [%s, %s]> (image)
    b = Conv (p, w)
    y = Add (a, b)"""


def test_align_branches() -> None:
    """Where branches of unequal size meet, the larger branch is cropped to the size of the smaller branch."""
    network = model(BRANCHES % (1, 1, 1, 1), k=KERNEL, w=RNG.standard_normal((4, 3, 1, 1)).astype(np.float32))
    each = AlignBranchesPass(WINDOW)
    assert each(network).modified
    assert operators(network) == ["Conv", "AveragePool", "Conv", "Slice", "Add"]
    assert run(network, LARGE).shape == (1, 4, 24, 32)
    assert_untouched(each, network)


def test_branches_of_one_size_are_aligned() -> None:
    """A graph without branches, or with branches of one size, stays unchanged."""
    assert_untouched(AlignBranchesPass(WINDOW), grid())
    kernel = KERNEL[:, :, :2, :2].copy()
    network = model(BRANCHES % (2, 2, 2, 2), k=kernel, w=RNG.standard_normal((4, 3, 1, 1)).astype(np.float32))
    assert_untouched(AlignBranchesPass(WINDOW), network)


@pytest.mark.parametrize("ending", ["", "y = Softmax <axis = 1> (l)"], ids=["logits", "softmax"])
def test_crop_grid(ending: str) -> None:
    """The last rows and columns are removed, before an activation if there is one; the output keeps its name."""
    network = model(
        f"""image: float[N,3,H,W] -> y: float[N,4,rows,cols]
        {"l" if ending else "y"} = Conv (image, k)
        {ending}""",
        k=KERNEL,
    )
    whole = run(network, LARGE)
    assert CropGridPass([[2, 1]])(network).modified
    assert operators(network) == ["Conv", "Slice", *(["Softmax"] if ending else [])]
    assert network.graph.outputs[0].name == "y"
    assert_array_equal(run(network, LARGE), whole[:, :, :-2, :-1])


def test_whole_grids_are_not_cropped() -> None:
    """Without a surplus the grid is not changed."""
    assert_untouched(CropGridPass([[0, 0]]), grid())


def test_infer_types() -> None:
    """A wrong type is corrected and a stated shape is removed; a second run modifies nothing."""
    network = grid()
    value = network.graph.node("c").outputs[0]
    value.dtype, value.shape = ir.DataType.INT8, ir.Shape([1, 4, 4, 4])
    assert InferTypesPass()(network).modified
    inferred = network.graph.node("c").outputs[0]
    assert inferred.dtype == ir.DataType.FLOAT
    assert inferred.shape is None
    assert_untouched(InferTypesPass(), network)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", ir.DataType.FLOAT16), ("int8", ir.DataType.INT8)])
def test_quantize(tmp_path: Path, precision: str, dtype: ir.DataType) -> None:
    """The new model has smaller weights and nearly the same scores; the original model keeps its bytes."""
    network = grid()
    before, expected = serialised(network), run(network, LARGE)
    result = QuantizePass(precision, iter([{"image": LARGE}] * 4), tmp_path)(network)
    assert result.model is not network
    assert result.modified
    assert serialised(network) == before
    assert dtype in {value.dtype for value in result.model.graph.initializers.values()}
    ir.external_data.load_to_model(result.model)
    scores = run(result.model, LARGE)
    assert scores.dtype == np.float32
    assert 0 < np.linalg.norm(scores - expected) < 0.05 * np.linalg.norm(expected)


def test_geometry_follows_the_stride() -> None:
    """After the pass the geometry has the new stride, and the same receptive field."""
    network = grid()
    native = geometries(network.graph, WINDOW)[network.graph.outputs[0]]
    RestridePass(1, WINDOW)(network)
    finer = geometries(network.graph, WINDOW)[network.graph.outputs[0]]
    assert [axis.stride for axis in native + finer] == [2, 2, 1, 1]
    assert [axis.receptive_field for axis in native] == [axis.receptive_field for axis in finer]
