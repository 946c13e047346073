"""Valid graphs that exporters rarely write: each converts exactly, or is refused in one line that names the node."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from onnx import helper, numpy_helper
from support.conversion import SILENT
from support.pictures import noise, png
from support.written_graphs import graph, node

from converter import convert as conversion
from converter.errors import ConversionError
from converter.report import Report
from converter.sources.read import read_source

HEAD = ["Flatten: x -> f", "MatMul: f w -> y"]
POOLED = ["GlobalAveragePool: x -> g", "Flatten: g -> f", "MatMul: f w4 -> y"]


def convert(proto: onnx.ModelProto, folder: Path, **options: Any) -> Report:
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / "net.onnx")
    request = conversion.Request(folder / "net" / "1", windows=4, preprocess="unit", **options)
    return conversion.convert(read_source(folder / "net.onnx", arch=None, window=None), request, SILENT)


SIGMOID = [*HEAD[:1], "MatMul: f w -> m", "Add: m b -> a", "Sigmoid: m -> s", "Mul: a s -> y"]
EXACT = {
    "centre pixel": ["Conv: image k -> x", "Slice: x middle behind space -> c", "Flatten: c -> f", "MatMul: f w4 -> y"],
    "inner part": [
        "Conv: image k3 -> c",
        node("Pad: c border -> x"),
        "Slice: x one nine space -> p",
        node("GlobalAveragePool: p -> g"),
        "Flatten: g -> f",
        "MatMul: f w4 -> y",
    ],
    "sums of two uses": ["Conv: image k -> x", *SIGMOID],
    "softmax, then moved": [
        "Conv: image k -> x",
        "GlobalAveragePool: x -> l",
        node("Softmax: l -> s", axis=1),
        node("Transpose: s -> t", perm=[0, 2, 3, 1]),
        "Flatten: t -> y",
    ],
    "softmax, then fewer classes": [
        "Conv: image k -> x",
        *HEAD[:1],
        "MatMul: f w -> m",
        node("Softmax: m -> s", axis=1),
        node("Gather: s order -> y", axis=1),
    ],
    "weights with a further axis": [
        "Conv: image k -> x",
        *HEAD[:1],
        node("Unsqueeze: w zero -> v"),
        "MatMul: f v -> m",
        node("Squeeze: m zero -> y"),
    ],
}


@pytest.mark.parametrize("nodes", EXACT.values(), ids=EXACT)
def test_unusual_heads_convert(tmp_path: Path, nodes: list[str]) -> None:
    """Every cell of a larger image equals the source's own score of its window."""
    proto = graph(nodes)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    report = convert(proto, tmp_path)
    assert report.spec.output.kind == ("probabilities" if "Softmax" in str(nodes) else "logits-softmax")
    pixels = noise(16, 14, 3)
    (grid,) = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx").run(None, {"image": pixels[None]})
    original = ort.InferenceSession(tmp_path / "net.onnx")
    for row, col in np.ndindex(*grid.shape[2:]):
        crop = np.moveaxis(pixels[row : row + 10, col : col + 10], -1, 0)[None] / np.float32(255)
        assert_allclose(grid[0, :, row, col], original.run(None, {"image": crop})[0][0], rtol=0, atol=1e-5)


def logistic_map(steps: int) -> onnx.ModelProto:
    """Return a classifier whose scores pass through x → 3.9 x (1 − x), which doubles rounding errors at each step."""
    nodes = ["Conv: image k -> x", *HEAD[:1], "MatMul: f w -> m", "Add: m b -> a", "Sigmoid: a -> x0"]
    for step in range(steps):
        nodes += [f"Mul: x{step} x{step} -> p{step}", f"Sub: x{step} p{step} -> d{step}"]
        nodes += [f"Mul: d{step} rate -> {'y' if step == steps - 1 else f'x{step + 1}'}"]
    proto = graph(nodes)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(3.9, np.float32), "rate"))
    return proto


def test_networks_may_amplify_rounding(tmp_path: Path) -> None:
    """A network whose own rounding changes its scores is no error, and the certificate has the differences."""
    report = convert(logistic_map(60), tmp_path, crops_only=True)
    assert report.spec.parity[0].native.max_abs > 0.01
    assert convert(logistic_map(2), tmp_path / "stable", crops_only=True).spec.parity[0].native.max_abs < 1e-5


TWO_STRIDES = [
    node("Conv: image k3 -> a", strides=[2, 2], pads=[1, 1, 1, 1]),
    node("AveragePool: image -> p", kernel_shape=[2, 2], strides=[2, 2]),
    "Conv: p k -> q",
    "Add: a q -> x",
    *POOLED,
]
COUNTED = [
    node("Conv: image k3 -> a", strides=[2, 2]),
    node("AveragePool: a -> c", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    node("AveragePool: c -> x", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1),
    *POOLED,
]
PADDED = [
    node("Conv: image k3 -> a", strides=[4, 4]),
    "Pad: a border -> p",
    node("MaxPool: p -> x", kernel_shape=[2, 2]),
    *POOLED,
]


@pytest.mark.parametrize("nodes", [TWO_STRIDES, COUNTED, PADDED], ids=["resnet-d", "counted-padding", "pad-and-pool"])
def test_finer_strides_of_padded_networks(tmp_path: Path, nodes: list[str]) -> None:
    """Branches of unequal size, wide pads and a Pad before a pool: phase (0, 0) is the native grid."""
    report = convert(graph(nodes, 1, 3, 32, 32), tmp_path, strides=(2, 1))
    files = [entry.file for entry in report.spec.strides]
    native = report.spec.vertical.stride
    pixels = noise(32 + 4 * native, 32 + 8 * native, 3)[None]
    grids = [ort.InferenceSession(tmp_path / "net" / "1" / file).run(None, {"image": pixels})[0] for file in files]
    assert len(grids) > 1
    for entry, grid in zip(report.spec.strides, grids, strict=True):
        step = native // entry.stride.height
        assert grid.shape[2:] == (4 * step + 1, 8 * step + 1)
        assert_allclose(grid[:, :, ::step, ::step], grids[0], rtol=0, atol=1e-5)


BRANCH = helper.make_graph([node("Dropout: x -> d")], "then", [], [helper.make_empty_tensor_value_info("d")])
REFUSED = {
    "far side": (
        [node("Pad: image border -> p", mode="wrap"), "Conv: p k3 -> x", *HEAD],
        "pads with the opposite side of the map",
    ),
    "one operand": (["Conv: image k -> x", node("Einsum: x -> y", equation="nchw->nc")], "got 1 value"),
    "mask": (["Conv: image k -> c", "Dropout: c -> d m", "Cast: m -> n", "Mul: d n -> x", *HEAD], "its mask is used"),
    "negative pad": (["Conv: image k -> c", "Pad: c negative -> x", *POOLED], "(Pad): "),
    "negative pad, channels last": (
        [
            node("Transpose: image -> t", perm=[0, 2, 3, 1]),
            "Pad: t cut -> p",
            node("Transpose: p -> q", perm=[0, 3, 1, 2]),
            "Conv: q k -> x",
            *POOLED,
        ],
        "(Pad): ",
    ),
    "another domain": (
        [
            "Conv: image k -> x",
            "Flatten: x -> f",
            helper.make_node("Gelu", ["f"], ["g"], "g", domain="com.microsoft"),
            "MatMul: g w -> y",
        ],
        "node 'g' (Gelu): operators of the domain 'com.microsoft' are not known",
    ),
    "sequence": (["Conv: image k -> c", "SplitToSequence: c -> s", "SequenceAt: s at -> x", *HEAD], "got a sequence"),
    "map": (["Conv: image k -> y"], "expected one row of values per window"),
    "flattened map": (["Conv: image k -> c", "Flatten: c -> y"], "expected one row of values per window"),
}


@pytest.mark.parametrize(("nodes", "expected_message"), REFUSED.values(), ids=REFUSED)
def test_graphs_without_a_form_are_refused(tmp_path: Path, nodes: list[str], expected_message: str) -> None:
    """The network is refused in one line that names the node, and nothing is written."""
    proto = graph([each if each != "Cast: m -> n" else node(each, to=1) for each in nodes])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0), "at"))
    with pytest.raises(ConversionError) as caught:
        convert(proto, tmp_path)
    assert expected_message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("nodes", [["Conv: image k -> y"], ["ReduceMean: image -> y"]], ids=["map", "number"])
def test_only_classifiers_are_kept_for_crops(tmp_path: Path, nodes: list[str]) -> None:
    """With --crops-only, networks with several rows of scores or none are refused."""
    with pytest.raises(ConversionError, match="expected one row of values per window, got shape"):
        convert(
            graph([node(each, keepdims=0) if "Reduce" in each else each for each in nodes]), tmp_path, crops_only=True
        )


def test_a_crop_may_be_padded(tmp_path: Path) -> None:
    """A network with a Pad after a Slice converts, and is not exact."""
    nodes = ["Slice: image one nine space -> p", "Conv: p k -> c", "Pad: c border -> x", *HEAD]
    assert not convert(graph(nodes), tmp_path).spec.parity[0].exact


def test_coarser_strides_need_a_layer(tmp_path: Path) -> None:
    """A coarser stride is refused if no layer sees the whole window, as when a Slice makes the only cell."""
    nodes = ["Conv: image k -> x", "Slice: x middle behind space -> c", "Flatten: c -> y"]
    with pytest.raises(ConversionError, match=r"expected a layer that sees the whole window.*leave 4 out of --strides"):
        convert(graph(nodes), tmp_path, strides=(4,))


MIXED = {
    "standardised": [
        node("ReduceMean: image -> m", keepdims=1),
        "Sub: image m -> d",
        "Mul: d d -> q",
        node("ReduceMean: q -> v", keepdims=1),
        "Sqrt: v -> e",
        "Div: d e -> i",
        "Conv: i k -> x",
        *HEAD,
    ],
    "mean of the batch": [
        "Conv: image k -> x",
        "Flatten: x -> f",
        "MatMul: f w -> z",
        node("ReduceMean: z zero -> m", keepdims=1),
        "Mul: m b -> n",
        "Sub: z n -> y",
    ],
}
"""Classifiers whose scores of a window depend on the other windows of its batch."""


def of_batches(nodes: list[Any], size: str | int) -> onnx.ModelProto:
    """Return a classifier whose batches have a size, "N" for any size."""
    proto = graph(nodes)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [size, 3, 10, 10]))
    return proto


@pytest.mark.parametrize("nodes", MIXED.values(), ids=MIXED)
def test_windows_that_a_batch_mixes_are_scored_alone(tmp_path: Path, nodes: list[Any]) -> None:
    """A network that mixes the windows of a batch takes one window at a time, and gives the scores of each alone."""
    convert(of_batches(nodes, "N"), tmp_path, crops_only=True)
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    assert session.get_inputs()[0].shape[0] == 1
    pixels = noise(10, 10, 3)
    (scores,) = session.run(None, {"image": pixels[None]})
    crop = np.moveaxis(pixels, -1, 0)[None] / np.float32(255)
    (expected,) = ort.InferenceSession(tmp_path / "net.onnx").run(None, {"image": crop})
    assert_allclose(scores[0, :, 0, 0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "expected_size"), [("N", "N"), (3, 3), (1, 1)])
def test_batches_that_are_not_mixed_stay(tmp_path: Path, size: str | int, expected_size: str | int) -> None:
    """A network that scores each window by itself keeps its batch axis."""
    convert(of_batches(["Conv: image k -> x", *HEAD], size), tmp_path, crops_only=True)
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    assert session.get_inputs()[0].shape[0] == expected_size


def test_mixed_batches_of_a_fixed_size_are_refused(tmp_path: Path) -> None:
    """The refusal says on how many windows the scores depend."""
    with pytest.raises(ConversionError) as caught:
        convert(of_batches(MIXED["standardised"], 3), tmp_path, crops_only=True)
    assert str(caught.value) == (
        "input 'image': expected a network that scores each window by itself, got one whose scores of a window depend "
        "on the other 2 windows of the batch; export it with a batch of 1"
    )


def test_a_softmax_over_the_batch_is_refused(tmp_path: Path) -> None:
    """A softmax over the batch axis gives each window alone the score 1 for all classes, which is no classifier."""
    nodes = ["Conv: image k -> x", "Flatten: x -> f", "MatMul: f w -> z", node("Softmax: z -> y", axis=0)]
    with pytest.raises(ConversionError, match="got the same scores for every window"):
        convert(of_batches(nodes, "N"), tmp_path, crops_only=True)


@pytest.mark.parametrize("crops_only", [False, True], ids=["dense", "crops"])
def test_bands_may_be_last(tmp_path: Path, crops_only: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """The layout is determined by the graph, for any number of channels."""
    proto = graph([node("Transpose: image -> t", perm=[0, 3, 1, 2]), "Conv: t k4 -> x", *POOLED], 1, 10, 12, 4)
    spec = convert(proto, tmp_path, crops_only=crops_only).spec
    assert (spec.window.height, spec.window.width, spec.input.channels) == (10, 12, 4)


def test_diamonds_after_the_last_layer(tmp_path: Path) -> None:
    """A chain of operators that each read a value twice is traversed in linear time."""
    doubled = [f"Max: m{number} m{number} -> m{number + 1}" for number in range(40)]
    nodes = ["Conv: image k -> x", "Flatten: x -> f", "MatMul: f w -> m0", *doubled, "Relu: m40 -> y"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(noise(40, 40, 3)))
    report = convert(graph(nodes), tmp_path, precision="int8", images=tmp_path / "images", min_agreement=0)
    assert report.spec.precision == "int8"


def test_constants_that_onnx_runtime_transposes(tmp_path: Path) -> None:
    """A network as ConvNeXt converts, although ONNX Runtime transposes a weight of it while it loads the network."""
    rng, channels = np.random.default_rng(0), 80
    weights = {
        "k": rng.standard_normal((channels, 3, 3, 3)) / 5,
        "scale": rng.standard_normal((channels, 1, 1)),
        "n": rng.standard_normal(channels),
        "m": rng.standard_normal((channels, channels)) / 9,
        "w": rng.standard_normal((channels, 5)) / 9,
    }
    last, first = [0, 2, 3, 1], [0, 3, 1, 2]
    nodes = [
        node("Conv: image k -> c", strides=[2, 2]),
        node("Transpose: c -> a", perm=last),
        node("LayerNormalization: a n n -> b", axis=-1),
        node("Transpose: b -> d", perm=first),
        node("Transpose: d -> e", perm=last),
        node("MatMul: e m -> f"),
        node("Transpose: f -> g", perm=first),
        node("Mul: g scale -> h"),
        node("Add: h d -> i"),
        node("Transpose: i -> j", perm=last),
        node("LayerNormalization: j n n -> o", axis=-1),
        node("Transpose: o -> p", perm=first),
        node("GlobalAveragePool: p -> q"),
        node("Flatten: q -> r"),
        node("MatMul: r w -> y"),
    ]
    proto = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 20, 20])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    assert convert(model, tmp_path).spec.parity[0].exact
