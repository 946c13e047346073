"""ONNX files with false or harmful claims: weights outside of the folder, sizes, versions, functions."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.errors import ConversionError
from converter.runtime import newest_known
from converter.sources import onnx_file
from converter.sources.classifier import Classifier
from converter.sources.read import read_source

KERNEL = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
IR_VERSION, OPSET = newest_known()
Damage = Callable[[TensorProto], object]


def network(*nodes: onnx.NodeProto, opset: int = 19, ir_version: int = 9, **options: object) -> onnx.ModelProto:
    """Return a fully connected layer over windows of 3×10×10, with a constant `w` of 300×5 and nodes before it."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Flatten", ["x" if nodes else "image"], ["f"]), helper.make_node("Gemm", "fw", "y")],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(KERNEL, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, **options)


def read(folder: Path, proto: onnx.ModelProto) -> Classifier:
    """Write a network and read it."""
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return read_source(folder / "net.onnx", arch=None, window=None)


def refusal(folder: Path, proto: onnx.ModelProto) -> str:
    """Return the message, of one line, with which a network is refused."""
    with pytest.raises(ConversionError) as caught:
        read(folder, proto)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outside(location: str, proto: onnx.ModelProto | None = None, **entries: int) -> onnx.ModelProto:
    """Return a network that declares its weights to be in another file."""
    proto = proto or network()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return proto


def constant(model: ir.Model, name: str) -> ir.TensorProtocol:
    """Return a tensor of the graph."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def kernel(classifier: Classifier) -> np.ndarray:
    """Return the layer's weights, which the two graphs share."""
    original: np.ndarray
    original, given = (constant(model, "w").numpy() for model in (classifier.original, classifier.model))
    assert np.shares_memory(original, given)
    return original


@pytest.mark.parametrize("opset", [13, 19])
@pytest.mark.parametrize("location", [None, "weights.data", "./weights.data", "sub/weights.data"])
def test_weights_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str | None, opset: int
) -> None:
    """Both graphs share weights in the file or beside it, also if a relative path names the model."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    proto = network(opset=opset)
    if location:
        Path(location).write_bytes(bytes(7) + KERNEL.tobytes())
        proto = outside(location, proto, offset=7, length=KERNEL.nbytes)
    classifier = read(Path(), proto)
    np.testing.assert_array_equal(kernel(classifier), KERNEL)
    assert classifier.model.opset_imports[""] == 19
    assert [value.name for value in classifier.model.graph.inputs] == ["image"]


@pytest.mark.parametrize(
    "location",
    ["../secret.data", "{folder}/secret.data", "link.data", "linked/secret.data", "hard.data", "pipe", "sub", ""],
)
def test_weights_outside_of_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    """Weights must be regular files in the model's folder; paths, links and pipes to other places are refused."""
    folder, secret = tmp_path / "model", tmp_path / "secret.data"
    (folder / "sub").mkdir(parents=True)
    secret.write_bytes(KERNEL.tobytes())
    (folder / "link.data").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "hard.data").hardlink_to(secret)
    os.mkfifo(folder / "pipe")
    message = refusal(folder, outside(location.format(folder=tmp_path)))
    assert f"weights in '{location.format(folder=tmp_path)}': expected a" in message


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    """If external weights are missing, the refusal names their file."""
    assert "its weights 'net.onnx.data' are missing; copy this file into its directory" in refusal(
        tmp_path, outside("net.onnx.data")
    )


@pytest.mark.parametrize(
    ("entries", "expected_message"),
    [
        ({"offset": 1, "length": 6000}, "'weights.data' has 6000 bytes, expected 6001"),
        ({"offset": 1 << 62}, "has 6000 bytes, expected 4611686018427393904"),
        ({"offset": 1 << 70}, "has 6000 bytes, expected"),
        ({"length": 5999}, "expected 6000 bytes, got a length of 5999"),
        ({"length": 1 << 40}, "expected 6000 bytes, got a length of 1099511627776"),
        ({"offset": -4}, "offset must be non-negative"),
    ],
    ids=["end", "far", "overflow", "short", "long", "negative"],
)
def test_offsets_and_lengths_are_compared_with_the_file(
    tmp_path: Path, entries: dict[str, Any], expected_message: str
) -> None:
    """External weights beyond the end of their file are refused."""
    (tmp_path / "weights.data").write_bytes(KERNEL.tobytes())
    assert expected_message in refusal(tmp_path, outside("weights.data", **entries))


def dims(*sizes: int) -> Damage:
    """Return a function that claims another shape."""

    def claim(tensor: TensorProto) -> None:
        tensor.ClearField("dims")
        tensor.dims.extend(sizes)

    return claim


def set_field(**fields: int | bytes) -> Damage:
    """Return a function that sets fields to other values."""

    def claim(tensor: TensorProto) -> None:
        for field, value in fields.items():
            setattr(tensor, field, value)

    return claim


def both(*damages: Damage) -> Damage:
    """Return a function that applies several damages."""
    return lambda tensor: [damage(tensor) for damage in damages]


def no_data(tensor: TensorProto) -> None:
    """Remove the numbers."""
    tensor.ClearField("raw_data")


@pytest.mark.parametrize(
    ("damage", "expected_message"),
    [
        (set_field(raw_data=KERNEL.tobytes()[:-4]), "cannot reshape array of size 1499"),
        (set_field(raw_data=KERNEL.tobytes()[:-1]), "buffer size must be a multiple of element size"),
        (set_field(raw_data=b""), "cannot reshape array of size 0"),
        (dims(1 << 40, 1 << 40), "cannot reshape array of size 1500"),
        (both(dims(1 << 20, 1 << 20), no_data), "tensor 'w': expected 1099511627776 numbers, got none"),
        (both(no_data, lambda tensor: tensor.float_data.extend([1.0] * 7)), "cannot reshape array of size 7"),
        (both(no_data, lambda tensor: tensor.int64_data.extend([1] * 1500)), "Unsupported dtype"),
        (dims(300, -5), "expected whole bytes, got FLOAT [300,-5]"),
        (dims(-1, 5), "expected whole bytes, got FLOAT [-1,5]"),
        (set_field(data_type=TensorProto.INT4), "expected whole bytes, got INT4"),
        (
            both(no_data, set_field(data_type=TensorProto.STRING)),
            "tensor 'w': expected 1500 strings, got another number",
        ),
        (set_field(data_type=99), "99 is not a valid DataType"),
        (set_field(data_type=0), "UNDEFINED"),
    ],
)
def test_tensors_are_compared_with_their_data(tmp_path: Path, damage: Damage, expected_message: str) -> None:
    """A tensor whose claimed shape is larger than its data, or does not fit it, is refused."""
    proto = network()
    damage(proto.graph.initializer[0])
    assert expected_message in refusal(tmp_path, proto)


def test_constants_are_compared_with_their_data(tmp_path: Path) -> None:
    """A tensor in an attribute of a node whose claimed shape does not fit its data is refused."""
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("t", TensorProto.FLOAT, [1], [2.0]))
    proto = network(constant, helper.make_node("Mul", ["image", "c"], ["x"]))
    assert read(tmp_path, proto).window == (10, 10)
    proto.graph.node[0].attribute[0].t.dims[0] = 1 << 40
    assert "cannot reshape array of size 1" in refusal(tmp_path, proto)


def test_weights_are_not_multiplied(tmp_path: Path) -> None:
    """Tensors that share the same bytes too many times are refused, because they would fill the disk when written."""
    (tmp_path / "weights.data").write_bytes(KERNEL.tobytes())
    proto = outside("weights.data")
    for number in range(5):
        proto.graph.initializer.add().CopyFrom(proto.graph.initializer[0])
        proto.graph.initializer[-1].name = f"w{number}"
    assert "in smaller files" in refusal(tmp_path, proto)


@pytest.mark.parametrize("dtype", [np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)], ids=str)
@pytest.mark.parametrize("packing", ["raw", "int32", "external"])
def test_half_precision_weights(tmp_path: Path, dtype: np.dtype, packing: str) -> None:
    """float16 and bfloat16 weights that the network itself casts are read, in every encoding that a file may have."""
    half, proto = KERNEL.astype(dtype), network()
    kind = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.BFLOAT16
    tensor = TensorProto(name="h", dims=KERNEL.shape, data_type=kind)
    if packing == "raw":
        tensor.raw_data = half.tobytes()
    elif packing == "int32":
        tensor.int32_data.extend(half.view(np.uint16).ravel().tolist())
    proto.graph.initializer[0].CopyFrom(tensor)
    if packing == "external":
        (tmp_path / "weights.data").write_bytes(half.tobytes())
        outside("weights.data", proto)
    proto.graph.node.insert(0, helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT))
    classifier = read(tmp_path, proto)
    got = constant(classifier.original, "h").numpy()
    np.testing.assert_array_equal(got.astype(np.float32), half.astype(np.float32))
    image = np.random.default_rng(1).standard_normal((2, 3, 10, 10)).astype(np.float32)
    (scores,) = ort.InferenceSession(tmp_path / "net.onnx").run(None, {"image": image})
    np.testing.assert_allclose(scores, image.reshape(2, 300) @ half.astype(np.float32), rtol=1e-4, atol=1e-4)


def test_weights_of_more_than_2_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights larger than a protobuf are memory-mapped, also when the operator set is converted."""
    monkeypatch.setattr(onnx_file, "sha256", lambda *_: "")  # the hash would read all weights
    size = (1 << 31) + (1 << 20)
    with (tmp_path / "weights.data").open("wb") as file:
        file.truncate(size + KERNEL.nbytes)
        file.seek(size)
        file.write(KERNEL.tobytes())
    proto = outside("weights.data", network(opset=13), offset=size, length=KERNEL.nbytes)
    proto.graph.initializer.add().CopyFrom(TensorProto(name="large", dims=[size // 4], data_type=TensorProto.FLOAT))
    large = proto.graph.initializer[-1]
    large.data_location = TensorProto.EXTERNAL
    large.external_data.add(key="location", value="weights.data")
    classifier = read(tmp_path, proto)
    (tmp_path / "weights.data").unlink()
    np.testing.assert_array_equal(kernel(classifier), KERNEL)
    assert constant(classifier.model, "large").nbytes == size


def test_files_of_more_than_2_gb_are_refused(tmp_path: Path) -> None:
    """A file of 2 GB or more is refused without being read, because protobuf cannot hold it."""
    with (tmp_path / "net.onnx").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(ConversionError, match="expected less than 2 GB, the limit of protobuf; export the weights"):
        read_source(tmp_path / "net.onnx", arch=None, window=None)


@pytest.mark.parametrize(
    ("versions", "expected_message"),
    [
        (
            {"ir_version": IR_VERSION + 1},
            f"expected ir_version {IR_VERSION} at most, the newest that the installed ONNX Runtime knows, got",
        ),
        (
            {"opset": OPSET + 1},
            f"got {OPSET + 1}; upgrade onnxruntime, or export with opset_version={OPSET}",
        ),
        ({"ir_version": 0}, "expected a complete, valid ONNX model"),
        ({"opset": 0}, "expected a complete, valid ONNX model"),
    ],
    ids=["ir_version", "opset", "no-ir_version", "no-opset"],
)
def test_versions_that_the_runtime_does_not_know(
    tmp_path: Path, versions: dict[str, int], expected_message: str
) -> None:
    """A newer file format or operator set is refused with the newest known one and a way out."""
    assert expected_message in refusal(tmp_path, network(**versions))


def test_the_newest_versions_are_read(tmp_path: Path) -> None:
    """Files of the newest versions that the installed ONNX Runtime knows convert."""
    assert read(tmp_path, network(opset=OPSET, ir_version=IR_VERSION)).window == (10, 10)


def calls(depth: int) -> onnx.ModelProto:
    """Return a network with functions that each call the next one twice; with a negative depth they form a cycle."""
    count = abs(depth)
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("f", 1)]
    functions = [
        helper.make_function(
            "f",
            f"f{n}",
            ["a"],
            ["c"],
            [
                helper.make_node(name, [source], [target], domain=domain)
                for source, target in ("ab", "bc")
                for name, domain in [(f"f{(n + 1) % count}", "f") if n + 1 < count or depth < 0 else ("Relu", "")]
            ],
            opsets,
        )
        for n in range(count)
    ]
    proto = network(helper.make_node("f0", ["image"], ["x"], domain="f"), functions=functions)
    proto.opset_import.append(opsets[1])
    return proto


def test_functions_that_multiply_are_refused(tmp_path: Path) -> None:
    """Forty functions that each call the next one twice are refused before they are inlined."""
    assert read(tmp_path, calls(5)).window == (10, 10)
    assert "expected at most 200000 nodes and values" in refusal(tmp_path, calls(40))


def test_files_with_too_many_nodes_are_refused(tmp_path: Path) -> None:
    """A file with too many nodes, each of two bytes, is refused before memory is taken for them."""
    proto = network()
    for _ in range(200_000):
        proto.graph.node.add()
    assert "expected at most 200000 nodes and values" in refusal(tmp_path, proto)


def test_functions_that_call_themselves_are_refused(tmp_path: Path) -> None:
    """Functions that call each other in a cycle are refused."""
    assert "expected a complete, valid ONNX model" in refusal(tmp_path, calls(-2))


@pytest.mark.parametrize(
    "shape", [[1, 3, 1 << 20, 1 << 20], [1 << 40, 3, 10, 10], [1, 3, 0, 10], [1, 3, -1, 10], [0, 3, 10, 10]], ids=str
)
def test_empty_and_huge_windows_are_refused(tmp_path: Path, shape: list[int]) -> None:
    """An input without pixels, or with more pixels than fit into memory, is refused."""
    proto = network()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    assert "input 'image': expected 1 to 67108864 numbers" in refusal(tmp_path, proto)
