"""ONNX files whose inputs and outputs have other forms: flat pixels, other types, names of classes, several outputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.conversion import SILENT
from support.pictures import noise
from support.written_graphs import node

from converter import convert as conversion
from converter.errors import ConversionError
from converter.report import Report
from converter.sources.read import read_source

RNG = np.random.default_rng(11)
SIDE, CLASSES, LABELS = 12, 4, ["cat", "dog", "eel", "fox"]
CONSTANTS = {
    "k": RNG.standard_normal((6, 3, 5, 5)) / 9,
    "k1": RNG.standard_normal((6, 1, 5, 5)) / 5,
    "w": RNG.standard_normal((6 * 16, CLASSES)) / 10,
    "w1": RNG.standard_normal((SIDE * SIDE, CLASSES)) / 12,
    "w3": RNG.standard_normal((3 * SIDE * SIDE, CLASSES)) / 21,
    "scale": np.array(1 / 64),
    "to_map": np.array([-1, 1, SIDE, SIDE]),
    "to_pixels": np.array([-1, SIDE, SIDE, 3]),
    "zero": np.array([0]),
    "both": np.array([0, 1]),
    "channel": np.array([1]),
    "one": np.array([1]),
}
BODY: list[Any] = [
    "Conv: image k -> c",
    "Relu: c -> r",
    node("MaxPool: r -> p", kernel_shape=[2, 2], strides=[2, 2]),
    "Flatten: p -> f",
    "MatMul: f w -> z",
]
GREY: list[Any] = ["Conv: image k1 -> c", *BODY[1:]]
TO_FLOAT = node("Cast: x -> image", to=TensorProto.FLOAT)
SOFTMAX = node("Softmax: z -> prob", axis=1)
LAYOUTS = {
    "flat, then a map": ("float32", ["N", SIDE**2], ["Reshape: x to_map -> image", *GREY]),
    "flat and scaled, then a map": (
        "float32",
        ["N", SIDE**2],
        ["Mul: x scale -> s", "Reshape: s to_map -> image", *GREY],
    ),
    "flat, channels last": (
        "float32",
        ["N", 3 * SIDE**2],
        ["Reshape: x to_pixels -> i", node("Transpose: i -> image", perm=[0, 3, 1, 2]), *BODY],
    ),
    "without batch": ("float32", [3, SIDE, SIDE], ["Unsqueeze: x zero -> image", *BODY]),
    "without channels": ("float32", ["N", SIDE, SIDE], ["Unsqueeze: x channel -> image", *GREY]),
    "a matrix": ("float32", [SIDE, SIDE], ["Unsqueeze: x both -> image", *GREY]),
    "double": ("float64", ["N", 3, SIDE, SIDE], [TO_FLOAT, *BODY]),
    "int64": ("int64", ["N", 3, SIDE, SIDE], [TO_FLOAT, *BODY]),
    "uint16": ("uint16", ["N", 3, SIDE, SIDE], [TO_FLOAT, *BODY]),
    "flat bytes": (
        "uint8",
        ["N", SIDE**2],
        [helper.make_node("Cast", ["x"], ["v"], "cast", to=1), "Reshape: v to_map -> image", *GREY],
    ),
}
PERCEPTRONS = {
    "one layer": ["MatMul: x w1 -> z"],
    "in colour": ["MatMul: x w3 -> z"],
}


def model(
    nodes: Sequence[str | onnx.NodeProto], dtype: str, shape: Sequence[int | str], outputs: Sequence[Any] = ("z",)
) -> onnx.ModelProto:
    """Return a network of an input x."""
    types = {"x": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}
    batch = shape[0] if len(shape) != 3 or isinstance(shape[0], str) else 1
    proto = helper.make_graph(
        [each if isinstance(each, onnx.NodeProto) else node(each) for each in nodes],
        "net",
        [helper.make_tensor_value_info("x", types["x"], shape)],
        [
            helper.make_tensor_value_info(each, TensorProto.FLOAT, ["N" if isinstance(batch, str) else 1, CLASSES])
            if isinstance(each, str)
            else each
            for each in outputs
        ],
        [
            numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)
            for name, array in CONSTANTS.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=8)


def convert(proto: onnx.ModelProto, folder: Path, window: tuple[int, int] | None = None, **options: Any) -> Report:
    onnx.save(proto, folder / "net.onnx")
    request = conversion.Request(folder / "net" / "1", windows=4, **options)
    return conversion.convert(read_source(folder / "net.onnx", arch=None, window=window), request, SILENT)


def check_cells(folder: Path, report: Report, output: str = "z") -> None:
    """Compare every cell of a larger image with the source network on its window."""
    spec = report.spec
    pixels = noise(SIDE + 4, SIDE + 2, spec.input.channels)
    image = pixels if spec.input.layout == "NHWC" else np.moveaxis(pixels, -1, 0)
    served = ort.InferenceSession(folder / "net" / "1" / "model.onnx")
    (grid,) = served.run(None, {spec.input.name: image[None].astype(spec.input.dtype)})
    original = ort.InferenceSession(folder / "net.onnx")
    for row, col in np.ndindex(*grid.shape[2:]):
        top, left = row * spec.vertical.stride, col * spec.horizontal.stride
        crop = pixels[top : top + SIDE, left : left + SIDE]
        expected = original.run([output], {"x": as_input(original, crop, spec.input.layout)})[0].ravel()
        assert_allclose(grid[0, :, row, col], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def as_input(original: ort.InferenceSession, crop: NDArray[np.uint8], layout: str) -> NDArray[np.generic]:
    """Return a window as the source network takes it."""
    image = original.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in image.shape]
    types = {"tensor(float)": "float32", "tensor(double)": "float64"}
    dtype = types.get(image.type) or image.type.removeprefix("tensor(").removesuffix(")")
    return (crop if layout == "NHWC" else np.moveaxis(crop, -1, 0)).reshape(shape).astype(dtype)


@pytest.mark.parametrize(("dtype", "shape", "nodes"), LAYOUTS.values(), ids=LAYOUTS)
def test_inputs_of_other_forms(tmp_path: Path, dtype: str, shape: list[int | str], nodes: list[Any]) -> None:
    """The converted network takes an image of four axes, and every cell is the source's score."""
    report = convert(model(nodes, dtype, shape), tmp_path)
    assert report.spec.parity[0].exact
    assert (report.spec.window.height, report.spec.window.width) == (SIDE, SIDE)
    check_cells(tmp_path, report)


@pytest.mark.parametrize("nodes", PERCEPTRONS.values(), ids=PERCEPTRONS)
def test_perceptrons_need_a_window(tmp_path: Path, nodes: list[str]) -> None:
    """Nothing in the graph of a perceptron states the size of the image."""
    channels = 3 if "w3" in nodes[0] else 1
    proto = model(nodes, "float32", ["N", channels * SIDE**2])
    with pytest.raises(ConversionError, match=r"window: expected the size of the image.*give --window"):
        convert(proto, tmp_path)
    with pytest.raises(ConversionError, match="does not hold images of 13×13 pixels"):
        convert(proto, tmp_path, (13, 13))
    report = convert(proto, tmp_path, (SIDE, SIDE))
    assert report.spec.input.channels == channels
    check_cells(tmp_path, report)


def test_one_image_without_batch_in_and_out(tmp_path: Path) -> None:
    """A network of one image that returns a vector of scores converts."""
    nodes = ["Unsqueeze: x zero -> image", *BODY[:-1], "MatMul: f w -> m", "Squeeze: m zero -> z"]
    vector = helper.make_tensor_value_info("z", TensorProto.FLOAT, [CLASSES])
    report = convert(model(nodes, "float32", [3, SIDE, SIDE], [vector]), tmp_path)
    check_cells(tmp_path, report)


def test_an_input_that_is_computed_with_is_refused(tmp_path: Path) -> None:
    """Arithmetic on integers has no form in floating-point numbers."""
    nodes = ["Mul: x x -> s", node("Cast: s -> image", to=1), *BODY]
    with pytest.raises(ConversionError, match="input 'x': expected float32 or uint8"):
        convert(model(nodes, "int32", ["N", 3, SIDE, SIDE]), tmp_path)


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """The order of the nodes in the file does not matter."""
    proto = model(["Identity: x -> image", *BODY], "float32", ["N", 3, SIDE, SIDE])
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert convert(proto, tmp_path).spec.parity[0].exact


NAMED = {
    "dictionary": ([node("ZipMap: prob -> y", classlabels_strings=LABELS)], "prob"),
    "label": (
        [
            node("ArgMax: prob -> top", axis=1, keepdims=0),
            node("LabelEncoder: top -> y", keys_int64s=[0, 1, 2, 3], values_strings=LABELS),
        ],
        "prob",
    ),
    "number": ([node("ArgMax: z -> y", axis=1, keepdims=0)], "z"),
    "numbers of the best": ([node("TopK: z one -> v y", axis=1)], "z"),
    "extracted": (
        [node("ArgMax: prob -> top", axis=1, keepdims=0), node("ArrayFeatureExtractor: names top -> y")],
        "prob",
    ),
}


@pytest.mark.parametrize(("end", "scores"), NAMED.values(), ids=NAMED)
def test_names_of_classes_are_looked_through(tmp_path: Path, end: list[onnx.NodeProto], scores: str) -> None:
    """The scores behind a dictionary or the name of the best class are taken, and so are the labels."""
    for each in end:
        each.domain = "" if each.op_type in ("ArgMax", "TopK") else "ai.onnx.ml"
    kinds = {"ZipMap": None, "LabelEncoder": TensorProto.STRING, "ArrayFeatureExtractor": TensorProto.STRING}
    output = helper.make_tensor_value_info("y", kinds.get(end[-1].op_type, TensorProto.INT64) or 1, ["N"])
    if end[-1].op_type == "ZipMap":
        output = helper.make_value_info(
            "y",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
            ),
        )
    proto = model(["Identity: x -> image", *BODY, SOFTMAX, *end], "float32", ["N", 3, SIDE, SIDE], [output])
    proto.graph.initializer.append(numpy_helper.from_array(np.array([LABELS], np.object_), "names"))
    report = convert(proto, tmp_path)
    assert report.spec.output.kind == ("probabilities" if scores == "prob" else "logits-softmax")
    labels = tmp_path / "net" / "1" / "labels.txt"
    assert (labels.read_text().split() if labels.exists() else []) == ([] if scores == "z" else LABELS)


def test_the_highest_scores_are_no_scores(tmp_path: Path) -> None:
    """The values of TopK belong to other classes for every window, and are not taken for scores."""
    nodes = ["Identity: x -> image", *BODY, node("TopK: z one -> y numbers", axis=1), "Flatten: y -> best"]
    best = helper.make_tensor_value_info("best", TensorProto.FLOAT, ["N", 1])
    with pytest.raises(ConversionError, match=r"TopK"):
        convert(model(nodes, "float32", ["N", 3, SIDE, SIDE], [best]), tmp_path)


def test_scores_are_chosen(tmp_path: Path) -> None:
    """Of several outputs --scores picks one; without it the refusal lists them, and recommends the logits."""
    proto = model(["Identity: x -> image", *BODY, SOFTMAX], "float32", ["N", 3, SIDE, SIDE], ["z", "prob"])
    with pytest.raises(ConversionError, match=r"got several: z \[N,4\], prob \[N,4\]; .* for example --scores z"):
        convert(proto, tmp_path)
    with pytest.raises(ConversionError, match=r"scores: expected .* one of z \[N,4\], prob \[N,4\]; got 'logits'"):
        convert(proto, tmp_path, scores="logits")
    report = convert(proto, tmp_path, scores="prob")
    assert report.spec.output.kind == "probabilities"
    assert convert(proto, tmp_path, scores="z", force=True).spec.output.kind == "logits-softmax"


def test_log_of_softmax(tmp_path: Path) -> None:
    """Log(Softmax(x)) of large logits is finite, as LogSoftmax is."""
    nodes = ["Identity: x -> image", *BODY[:-1], "MatMul: f w -> m", node("Softmax: m -> q", axis=1), "Log: q -> z"]
    report = convert(model(nodes, "float32", ["N", 3, SIDE, SIDE]), tmp_path)
    assert report.spec.parity[0].exact
    assert report.spec.output.kind == "logits-softmax"


def test_infinite_scores_suggest_preprocessing(tmp_path: Path) -> None:
    """A network that overflows on pixel values from 0 to 255 is refused with that advice."""
    nodes = ["Identity: x -> image", *BODY[:-1], "MatMul: f w -> m", "Exp: m -> e", "Exp: e -> z"]
    with pytest.raises(ConversionError, match=r"got NaN or infinity from the source.* add --preprocess"):
        convert(model(nodes, "float32", ["N", 3, SIDE, SIDE]), tmp_path)


def test_weights_are_standardised(tmp_path: Path) -> None:
    """Batch normalisation in training mode of weights, which do not depend on the pixels, is a constant."""
    constants = {"gain": np.ones(6), "shift": np.zeros(6), "rows": np.array([1, 6, -1]), "back": np.array([6, 3, 5, 5])}
    nodes = [
        "Reshape: k rows -> flat",
        helper.make_node(
            "BatchNormalization", ["flat", "gain", "shift", "shift", "gain"], ["std", "om", "ov"], "bn", training_mode=1
        ),
        "Reshape: std back -> kernel",
        "Conv: x kernel -> c",
        *BODY[1:],
    ]
    proto = model(nodes, "float32", ["N", 3, SIDE, SIDE])
    for name, array in constants.items():
        kind = np.float32 if array.dtype.kind == "f" else np.int64
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(kind), name))
    report = convert(proto, tmp_path)
    assert report.spec.parity[0].exact
