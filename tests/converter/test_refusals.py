"""Networks that cannot slide: the refusal names the node and the reason, and nothing is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.conversion import SILENT

from converter import convert as conversion
from converter.errors import ConversionError
from converter.graph.affine import Stencil
from converter.sources.read import read_source

HEAD = ["Flatten: x -> f", "Gemm: f w -> y"]


def graph(
    nodes: Sequence[str | onnx.NodeProto], *, features: int = 400, rank: int = 2, opset: int = 19
) -> onnx.ModelProto:
    """Return a classifier of 3×10×10 windows from lines like "Conv: image k -> x"; w, k and s are constants."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((features, 5)),
        "k": rng.standard_normal((4, 3, 1, 1)),
        "s": np.ones(4),
        "t": np.ones(3),
        "flagged": np.zeros(()),
        "position": rng.standard_normal((1, 4, 10, 10)),
    }
    proto = helper.make_graph(
        [node if isinstance(node, onnx.NodeProto) else parse(node) for node in nodes],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [
            *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()),
            numpy_helper.from_array(np.array(True), "flag"),
        ],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def parse(line: str, **attributes: Any) -> onnx.NodeProto:
    """Make a node, named like its output, from a line like "Conv: image k -> x"."""
    op, operands = line.split(": ")
    inputs, output = operands.split(" -> ")
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


SQUEEZE_EXCITE = ["Conv: image k -> c", "GlobalAveragePool: c -> g", "Sigmoid: g -> e", "Mul: c e -> x", *HEAD]
INSTANCE_NORM = ["Conv: image k -> c", "InstanceNormalization: c s s -> x", *HEAD]
SOFTMAX_OVER_MAP = ["Conv: image k -> c", parse("Softmax: c -> x", axis=3), *HEAD]
UNALIGNED = [
    "Conv: image k -> c",
    parse("MaxPool: c -> p", kernel_shape=[2, 2], strides=[2, 2]),
    parse("MaxPool: c -> q", kernel_shape=[6, 6], strides=[1, 1]),
    "Add: p q -> x",
    *HEAD,
]
TRAINING = [
    helper.make_node(
        "BatchNormalization", ["image", "t", "t", "t", "t"], ["x", "mean", "variance"], "x", training_mode=1
    ),
    *HEAD,
]
BRANCHES: dict[str, Any] = {
    f"{branch}_branch": helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["c"], ["g"]), helper.make_node("Mul", ["c", "g"], ["o"])],
        branch,
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    for branch in ("then", "else")
}
BRANCH = ["Conv: image k -> c", helper.make_node("If", ["flag"], ["x"], "x", **BRANCHES), *HEAD]
POSITION = ["Conv: image k -> c", "Add: c position -> x", *HEAD]
CHOICE = [
    "ReduceMax: image -> largest",
    "Greater: largest flagged -> bright",
    "Squeeze: bright -> light",
    *BRANCH[:1],
    helper.make_node("If", ["light"], ["x"], "x", **BRANCHES),
    *HEAD,
]
LOCAL = [
    "Conv: image k -> c",
    helper.make_node("Einsum", ["c", "position"], ["x"], "x", equation="nchw,mchw->nmhw"),
    *HEAD,
]


@pytest.mark.parametrize(
    ("nodes", "options", "expected_message"),
    [
        (
            SQUEEZE_EXCITE,
            {},
            "node 'x' (Mul): mixes a summary of the whole map back into the map (as squeeze-and-excite",
        ),
        (INSTANCE_NORM, {}, "node 'x' (InstanceNormalization): it normalises over the whole map"),
        (
            SOFTMAX_OVER_MAP,
            {},
            "node 'x' (Softmax): expected softmax over the classes, got one that looks along the map",
        ),
        (UNALIGNED, {"features": 100}, "node 'x' (Add): not aligned: expected branches of one stride, got 2 and 1"),
        (TRAINING, {"features": 300}, "node 'x' (BatchNormalization): it was exported in training mode"),
        (BRANCH, {}, "(Mul): mixes a summary of the whole map back into the map"),
        (CHOICE, {}, "node 'x' (If): expected no branches or loops that depend on the pixels"),
        (
            LOCAL,
            {"features": 100},
            "node 'x' (Einsum): expected a sum of products with the same weights at every position, got different",
        ),
        (POSITION, {}, "node 'x' (Add): the constant 'position' depends on the position"),
        (["Conv: image k -> y"], {"rank": 4}, "output 'y': expected one row of values per window"),
    ],
    ids=[
        "se",
        "instance-norm",
        "softmax",
        "unaligned",
        "training",
        "branch",
        "choice",
        "locally-connected",
        "position",
        "no-classifier",
    ],
)
def test_networks_that_cannot_slide(
    tmp_path: Path, nodes: list[str | onnx.NodeProto], options: dict[str, int], expected_message: str
) -> None:
    """The node, its operator and the reason are named, on one line; nothing is left on disk."""
    assert expected_message in refusal(graph(nodes, **options), tmp_path)
    assert not (tmp_path / "models").exists()


def refusal(proto: onnx.ModelProto, folder: Path) -> str:
    """Convert and return the refusal's message."""
    path = folder / "net.onnx"
    onnx.save(proto, path)
    request = conversion.Request(folder / "models" / "net" / "1", windows=4)
    with pytest.raises(ConversionError) as caught:
        conversion.convert(read_source(path, arch=None, window=None), request, SILENT)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_images_are_refused(tmp_path: Path) -> None:
    """A network with two inputs is refused."""
    proto = graph(["Add: image other -> x", "Flatten: x -> f", "Gemm: f w -> y"], features=300)
    proto.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, 3, 10, 10]))
    assert "inputs: expected one image, got 2: image, other" in refusal(proto, tmp_path)


@pytest.mark.parametrize("shape", [[1, 3, 10], [1, 3, 10, 10, 10]], ids=["1-d", "3-d"])
def test_other_ranks_are_refused(tmp_path: Path, shape: list[int]) -> None:
    """Networks for sequences and volumes are refused."""
    proto = graph(["Flatten: image -> f", "Gemm: f w -> y"], features=int(np.prod(shape)))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    assert "input 'image': expected float32 or uint8 N,C,H,W" in refusal(proto, tmp_path)


def test_several_inputs_of_one_operator_convert(tmp_path: Path) -> None:
    """Max of three maps and a global maximum slide like any other pool."""
    path = tmp_path / "net.onnx"
    nodes = ["Conv: image k -> c", "Max: c -> m", "Max: m m m -> n", "GlobalMaxPool: n -> x", *HEAD]
    onnx.save(graph(nodes, features=4), path)
    request = conversion.Request(tmp_path / "models" / "net" / "1", windows=4)
    assert conversion.convert(read_source(path, arch=None, window=None), request, SILENT).spec.parity[0].exact


def test_networks_without_a_trunk_convert(tmp_path: Path) -> None:
    """A plain fully connected network becomes one convolution the size of its window."""
    path = tmp_path / "net.onnx"
    onnx.save(graph(["Flatten: image -> f", "Gemm: f w -> y"], features=300), path)
    request = conversion.Request(tmp_path / "models" / "net" / "1", windows=4)
    report = conversion.convert(read_source(path, arch=None, window=None), request, SILENT)
    assert [(rewrite.was, rewrite.now) for rewrite in report.rewrites] == [("Gemm 300→5", "Conv 10×10, 3→5")]
    assert report.spec.parity[0].exact


@pytest.mark.parametrize("opset", [11, 13, 17, 19, 21])
def test_operator_sets(tmp_path: Path, opset: int) -> None:
    """Older operator sets are upgraded and newer ones kept; the result agrees with the original file."""
    path = tmp_path / "net.onnx"
    onnx.save(graph(["Conv: image k -> x", *HEAD], opset=opset), path)
    request = conversion.Request(tmp_path / "models" / "net" / "1", windows=4)
    report = conversion.convert(read_source(path, arch=None, window=None), request, SILENT)
    assert report.spec.parity[0].exact
    delivered = onnx.load(tmp_path / "models" / "net" / "1" / "model.onnx", load_external_data=False)
    assert delivered.opset_import[0].version == max(opset, 19)


def test_constant_networks_are_refused(tmp_path: Path) -> None:
    """A network with the same scores for every window is refused, because a comparison would be meaningless."""
    dead = ["Conv: image k -> c", "Neg: c -> n", "Abs: n -> a", "Neg: a -> m", "Relu: m -> x", *HEAD]
    assert "got the same scores for every window" in refusal(graph(dead), tmp_path)


@pytest.mark.parametrize("ending", [[], ["Softmax: l -> y"]], ids=["logits", "softmax"])
def test_wrong_rewrites_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: list[str]) -> None:
    """A wrong rewrite is refused by the comparison, even if a saturated softmax hides the difference in scores."""
    path = tmp_path / "net.onnx"
    head = ["Flatten: x -> f", "Gemm: f w -> l", *ending] if ending else HEAD
    onnx.save(graph(["Conv: image k -> x", *head]), path)
    right = Stencil.kernel
    monkeypatch.setattr(Stencil, "kernel", lambda self, weights, *operands: right(self, weights[:, ::-1], *operands))
    request = conversion.Request(tmp_path / "models" / "net" / "1", windows=4)
    with pytest.raises(ConversionError, match=r"expected a difference of at most .* networks on single windows"):
        conversion.convert(read_source(path, arch=None, window=None), request, SILENT)
    assert not (tmp_path / "models").exists()
