"""Each pass of graph.passes alone: it changes the graphs that it matches, and leaves other graphs unchanged."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.graphs import model, operators, run, serialised

from converter.errors import UnsupportedError
from converter.graph.nodes import constant_input, ints
from converter.graph.passes.canonicalize import CanonicalizePass
from converter.graph.passes.clear_shapes import ClearShapesPass
from converter.graph.passes.declare_interface import DeclareInterfacePass
from converter.graph.passes.fold_constants import FoldConstantsPass
from converter.graph.passes.inline_branches import InlineBranchesPass
from converter.graph.passes.prepend_preprocessing import PrependPreprocessingPass
from converter.graph.passes.remove_identities import RemoveIdentitiesPass
from converter.graph.passes.reshape_outputs import ReshapeOutputsPass
from converter.graph.passes.separate_pads import SeparatePadsPass
from converter.graph.passes.stop_dropout import StopDropoutPass
from converter.graph.passes.upgrade_operators import UpgradeOperatorsPass
from converter.graph.passes.widen_floats import WidenFloatsPass
from converter.graph.passes.write_out_padding import WriteOutPaddingPass, write_out_padding
from converter.graph.trace import Trace, trace
from converter.preprocessing import PRESETS

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
WEIGHTS = RNG.standard_normal((256, 5)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 3, 10, 10)).astype(np.float32)
NO_TRACE = Trace(shapes={}, types={}, constants={})


def plain() -> ir.Model:
    """Return a classifier that no pass matches."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,5]
        c = Conv (image, k)
        r = Relu (c)
        p = MaxPool <kernel_shape = [1, 1]> (r)
        f = Flatten (p)
        y = Gemm (f, w)""",
        k=KERNEL,
        w=WEIGHTS,
    )
    network.graph.outputs[0].shape = None
    return network


UNMATCHED = {
    "canonicalize": CanonicalizePass(),
    "clear-shapes": ClearShapesPass(),
    "remove-identities": RemoveIdentitiesPass(),
    "inline-branches": InlineBranchesPass({}),
    "fold-constants": FoldConstantsPass(NO_TRACE),
    "write-out-padding": WriteOutPaddingPass({}),
    "separate-pads": SeparatePadsPass(),
    "stop-dropout": StopDropoutPass(),
    "upgrade-operators": UpgradeOperatorsPass(),
    "widen-floats": WidenFloatsPass(),
}


@pytest.mark.parametrize("each", UNMATCHED.values(), ids=UNMATCHED)
def test_graphs_without_a_match_stay_as_they_are(each: ir.passes.InPlacePass) -> None:
    """A pass reports no modification, and returns the same object with the same bytes."""
    network = plain()
    before = serialised(network)
    result = each(network)
    assert result.model is network
    assert not result.modified
    assert serialised(network) == before


def assert_rewritten(each: ir.passes.InPlacePass, network: ir.Model, *, again: bool = False) -> None:
    """Check that the pass modifies the model in place, keeps the scores, and modifies nothing a second time."""
    image = np.abs(IMAGE)
    expected, before = run(network, image), serialised(network)
    result = each(network)
    assert result.model is network
    assert result.modified
    after = serialised(network)
    assert after != before
    assert_array_equal(run(network, image), expected)
    assert each(network).modified is again
    assert (serialised(network) != after) is again


def test_canonicalize() -> None:
    """Constants become initializers, which are not inputs; Dropout and stated shapes are removed."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,5]
        c = Conv (image, k)
        d = Dropout (c)
        s = Constant <value = int64[2] {0, 256}> ()
        f = Reshape (d, s)
        y = Gemm (f, w)""",
        ir_version=8,
        k=KERNEL,
        w=WEIGHTS,
    )
    network.graph.inputs.append(network.graph.initializers["k"])
    network.graph[0].outputs[0].shape = ir.Shape(["N", 4, 8, 8])
    assert_rewritten(CanonicalizePass(), network)
    assert operators(network) == ["Conv", "Reshape", "Gemm"]
    assert [value.name for value in network.graph.inputs] == ["image"]
    assert set(network.graph.initializers) == {"k", "w", "s"}
    assert network.ir_version == 9
    assert not any(value.shape for node in network.graph for value in node.outputs)


def test_clear_shapes() -> None:
    """The shapes of inner values and of the output are removed; the shape of the image stays."""
    network = plain()
    for node in network.graph:
        node.outputs[0].shape = ir.Shape([7])
    assert ClearShapesPass()(network).modified
    assert not any(value.shape for node in network.graph for value in node.outputs)
    assert network.graph.inputs[0].shape == ir.Shape(["N", 3, 10, 10])
    assert not ClearShapesPass()(network).modified


def test_remove_identities() -> None:
    """Dropout and an average pool of one element are removed; a pool of one element with a stride stays."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,5]
        c = Conv (image, k)
        d, m = Dropout (c)
        p = AveragePool <kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0]> (d)
        q = AveragePool <kernel_shape = [1, 1], strides = [2, 2]> (p)
        f = Flatten (q)
        y = Gemm (f, w)""",
        k=KERNEL,
        w=WEIGHTS[:64],
    )
    assert_rewritten(RemoveIdentitiesPass(), network)
    assert operators(network) == ["Conv", "AveragePool", "Flatten", "Gemm"]


BRANCHES = """image: float[N,3,10,10] -> y: float[N,3,10,10]
    n = Size (image)
    z = Greater (n, %s)
    y = If (z) <
        then_branch = then () => (float a) { h = Constant <value = float {2.0}> () a = Mul (image, h) },
        else_branch = other () => (float b) { b = Neg (image) }
    >"""


@pytest.mark.parametrize(("limit", "taken"), [(0, "Mul"), (10_000, "Neg")], ids=["then", "else"])
def test_inline_branches(tmp_path: Path, limit: int, taken: str) -> None:
    """The branch that a window takes replaces the If, with its constants as initializers."""
    network = model(BRANCHES % "limit", limit=np.array(limit))
    constants = trace(network, (10, 10), "NCHW", tmp_path).constants
    assert_rewritten(InlineBranchesPass(constants), network)
    assert operators(network) == ["Size", "Greater", taken]


def test_branches_of_unknown_conditions_are_refused() -> None:
    """Without a constant condition nothing can be inlined."""
    with pytest.raises(UnsupportedError, match="expected no branches or loops that depend on the pixels"):
        InlineBranchesPass({})(model(BRANCHES % "limit", limit=np.array(0)))


def test_fold_constants(tmp_path: Path) -> None:
    """A computed shape becomes a constant; a cast that changes no type has no users afterwards."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,5]
        c = Conv (image, k)
        s = Shape (c)
        i = Gather (s, zero)
        n = Concat <axis = 0> (i, minus)
        t = Cast <to = 1> (c)
        f = Reshape (t, n)
        y = Gemm (f, w)""",
        k=KERNEL,
        w=WEIGHTS,
        zero=np.array([0]),
        minus=np.array([-1]),
    )
    network.graph.inputs[0].shape = ir.Shape([2, 3, 10, 10])
    assert_rewritten(FoldConstantsPass(trace(network, (10, 10), "NCHW", tmp_path)), network)
    reshape = network.graph.node("f")
    assert constant_input(reshape, 1).tolist() == [2, -1]
    assert reshape.inputs[0] is not None
    assert reshape.inputs[0].name == "c"
    assert not network.graph.node("t").outputs[0].uses()


PADDED = {
    "same-upper": (
        'auto_pad = "SAME_UPPER", kernel_shape = [2, 3], strides = [1, 2]',
        [0, 0, 1, 1],
        "auto_pad SAME_UPPER",
    ),
    "same-lower": (
        'auto_pad = "SAME_LOWER", kernel_shape = [2, 3], strides = [1, 2]',
        [1, 1, 0, 0],
        "auto_pad SAME_LOWER",
    ),
    "ceil": ("ceil_mode = 1, kernel_shape = [3, 3], strides = [2, 2]", [0, 0, 1, 1], "ceil_mode"),
    "ceil-padded": ("ceil_mode = 1, kernel_shape = [2, 2], strides = [3, 3], pads = [1, 1, 0, 0]", [1, 1, 0, 0], None),
    "valid": ('auto_pad = "VALID", kernel_shape = [3, 3]', None, None),
}


@pytest.mark.parametrize(("attributes", "pads", "replaced"), PADDED.values(), ids=PADDED)
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_write_out_padding(
    tmp_path: Path, operator: str, attributes: str, pads: list[int] | None, replaced: str | None
) -> None:
    """The explicit pads give the same number of elements for a window, and the report names the replaced attribute."""
    network = model(f"image: float[N,3,10,10] -> y: float[N,3,n,m]\ny = {operator} <{attributes}> (image)")
    shapes = trace(network, (10, 10), "NCHW", tmp_path).shapes
    copy = network.clone()
    assert_rewritten(WriteOutPaddingPass(shapes), network)
    assert ints(network.graph.node("y"), "pads", []) == (pads or [])
    rewrites = write_out_padding(copy, shapes).rewrites
    assert [each.was for each in rewrites] == ([f"{operator} with {replaced}"] if replaced else [])


def test_separate_pads() -> None:
    """A Clip separates a Pad from the MaxPool after it, so that the maxima include the Pad's zeros."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,3,11,11]
        p = Pad (image, border)
        y = MaxPool <kernel_shape = [2, 2]> (p)""",
        border=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    )
    assert_rewritten(SeparatePadsPass(), network)
    assert operators(network) == ["Pad", "Clip", "MaxPool"]
    negative = -np.abs(IMAGE)  # padding with zeros and with −∞ gives different maxima
    optimised = run(network, negative, optimise=True)
    assert_array_equal(optimised, run(network, negative))
    assert not optimised[:, :, 0].any()


def test_stop_dropout() -> None:
    """Dropout that was exported in training mode passes every value unchanged."""
    network = model(
        "image: float[N,3,10,10] -> y: float[N,3,10,10]\ny = Dropout (image, ratio, training)",
        ratio=np.array(0.5, np.float32),
        training=np.array(True),
    )
    assert StopDropoutPass()(network).modified
    assert_array_equal(run(network, IMAGE), IMAGE)
    assert not StopDropoutPass()(network).modified


def test_upgrade_operators() -> None:
    """Arithmetic of operator set 6 that broadcasts along an axis is converted to operator set 7."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,300]
        a = Add <broadcast = 1, axis = 1> (image, b)
        s = Reshape <shape = [0, -1]> (a)
        y = Cast <to = "FLOAT"> (s)""",
        opset=4,
        ir_version=3,
        b=np.arange(3, dtype=np.float32),
    )
    assert UpgradeOperatorsPass()(network).modified
    assert (network.opset_imports[""], network.ir_version) == (7, 4)
    assert_array_equal(run(network, IMAGE), (IMAGE + np.arange(3, dtype=np.float32)[:, None, None]).reshape(2, 300))
    assert not UpgradeOperatorsPass()(network).modified


def test_widen_floats() -> None:
    """Weights, casts and stated types of 16 bits become float32 with the same numbers."""
    network = model(
        """image: float[N,3,10,10] -> y: float[N,4,8,8]
        h = Cast <to = 10> (image)
        c = Conv (h, k)
        y = Cast <to = 1> (c)""",
        k=KERNEL.astype(np.float16),
    )
    assert WidenFloatsPass()(network).modified
    assert network.graph.node("h").attributes["to"].as_int() == ir.DataType.FLOAT
    kernel = network.graph.initializers["k"].const_value
    assert kernel is not None
    assert_array_equal(kernel.numpy(), KERNEL.astype(np.float16).astype(np.float32))
    assert run(network, IMAGE).dtype == np.float32
    assert not WidenFloatsPass()(network).modified


def test_declare_interface() -> None:
    """The output gets its name, even if another value had that name, and input and output state their shapes."""
    network = plain()
    network.graph[1].outputs[0].name = "scores"
    each = DeclareInterfacePass(["N", 3, "H", "W"], {"scores": ["N", 5]})
    assert each(network).modified
    (image,), (scores,) = network.graph.inputs, network.graph.outputs
    assert (image.shape, scores.name, scores.shape) == (ir.Shape(["N", 3, "H", "W"]), "scores", ir.Shape(["N", 5]))
    assert network.graph[1].outputs[0].name == "scores_of_source"
    before = serialised(network)
    assert not each(network).modified
    assert serialised(network) == before


def test_reshape_outputs() -> None:
    """One row of scores per window becomes a grid of one cell."""
    network = plain()
    expected = run(network, IMAGE)
    assert ReshapeOutputsPass([5])(network).modified
    network.graph.outputs[0].dtype, network.graph.outputs[0].name = ir.DataType.FLOAT, "scores"
    assert_array_equal(run(network, IMAGE), expected[..., None, None])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("preset", ["imagenet", "caffe", "unit"])
def test_prepend_preprocessing(layout: str, preset: str) -> None:
    """The graph prepares pixels as numpy does, for either layout of the network's own input."""
    shape, perm = ("N,3,8,9", [0, 1, 2, 3]) if layout == "NCHW" else ("N,8,9,3", [0, 3, 1, 2])
    network = model(f"input: float[{shape}] -> y: float[N,3,8,9]\ny = Transpose <perm = {perm}> (input)")
    each = PrependPreprocessingPass(PRESETS[preset], 3, layout)
    assert each(network).modified
    pixels = RNG.integers(0, 256, (2, 8, 9, 3), np.uint8)
    expected = np.moveaxis(PRESETS[preset].apply(pixels), -1, 1)
    assert_allclose(run(network, pixels), expected, rtol=0, atol=1e-4)
    with pytest.raises(ir.passes.PreconditionError, match="expected a float32 image of rank 4"):
        each(network)
