"""The exported networks in `data/` are valid, and have the scores of the framework that wrote them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
FOLDERS = ("pytorch", "keras", "built")
EXPORTS = sorted(path for folder in FOLDERS for path in (DATA / folder).glob("*.onnx"))
BROKEN = [DATA / "keras" / "grouped.tf2onnx.onnx"]
OLD = [path for path in EXPORTS if path.stem.endswith(tuple(f".opset{opset}" for opset in range(1, 7)))]
BFLOAT16 = [path for path in EXPORTS if path.name.startswith("bfloat16")]
TOLERANCE = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 1e-5, np.dtype(np.int64): 0}


def stored(path: Path) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Return an export's inputs, and their scores by its framework."""
    with np.load(path.with_name(f"{path.name.split('.')[0]}.npz")) as arrays:
        windows = [arrays[key] for key in sorted(arrays) if key.startswith("window")]
        return [w.transpose(0, 3, 1, 2) for w in windows] if "_nchw" in path.name else windows, arrays["scores"]


def answer(model: onnx.ModelProto | Path, windows: list[NDArray[Any]]) -> NDArray[Any]:
    """Return ONNX Runtime's first output."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns about initializers that are inputs, as in old files
    session = ort.InferenceSession(model if isinstance(model, Path) else model.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    scores: NDArray[Any] = session.run(None, dict(zip(names, windows, strict=True)))[0]
    return scores


@pytest.mark.parametrize(
    "path", [path for path in EXPORTS if path not in (*BFLOAT16, *BROKEN, *OLD)], ids=lambda path: path.stem
)
def test_exports_agree_with_their_framework(path: Path) -> None:
    """ONNX Runtime's scores of the stored window equal the stored scores, to rounding."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    stop_training(model)
    windows, scores = stored(path)
    got = answer(model, windows)
    assert got.shape == scores.shape
    precision = np.dtype(np.float16) if path.name.startswith("half") else scores.dtype
    assert_allclose(got, scores, rtol=0, atol=TOLERANCE[precision] * np.abs(scores).max())


@pytest.mark.parametrize("path", BFLOAT16, ids=lambda path: path.stem)
def test_bfloat16_exports_agree_with_their_framework(path: Path) -> None:
    """No engine runs bfloat16 on a CPU; with the weights as float32 the scores agree within bfloat16's precision."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(as_single(onnx.numpy_helper.to_array(tensor)), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del model.graph.value_info[:]
    windows, scores = stored(path)
    assert_allclose(answer(model, windows), scores, rtol=0, atol=2e-2 * np.abs(scores).max())


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_what_an_exporter_could_not_convert_is_invalid(path: Path) -> None:
    """The exporter reports that it cannot convert the network, and still writes a file, which is invalid."""
    with pytest.raises(onnx.checker.ValidationError, match="StatefulPartitionedCall"):
        onnx.checker.check_model(onnx.load(path))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_older_files_are_the_network_whose_scores_are_stored(path: Path) -> None:
    """Files of operator sets below 7, which no engine runs, have the operators and weights of the newest file."""
    old, new = (onnx.load(file) for file in (path, max(path.parent.glob(f"{path.name.split('.')[0]}.*.onnx"))))
    onnx.checker.check_model(old, full_check=True)
    assert operators(old) == operators(new)
    for got, expected in zip(weights(old), weights(new), strict=True):
        np.testing.assert_array_equal(got, expected)


def operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators in order, without constants."""
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


def weights(model: onnx.ModelProto) -> list[NDArray[np.generic]]:
    """Return all constants that are not shapes, in initializers or nodes."""
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    arrays = map(onnx.numpy_helper.to_array, (*constants, *model.graph.initializer))
    return [array for array in arrays if array.dtype == np.float32]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_readme_lists_all_networks(folder: str) -> None:
    """The README names each network once, in the order of its sections."""
    _, section = (DATA / "README.md").read_text("utf-8").split(f"## {folder}/")
    rows = [line.split(" | ") for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert sorted(row[0].removeprefix("| ") for row in rows) == sorted(
        {path.name.split(".")[0] for path in (DATA / folder).glob("*.onnx")}
    )


def as_single(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return floats as float32; integers, which are shapes, are returned unchanged."""
    return array if array.dtype == np.int64 else array.astype(np.float32)


def stop_training(model: onnx.ModelProto) -> None:
    """Make batch normalisation use its statistics, as for the stored scores."""
    for node in model.graph.node:
        training = [attribute for attribute in node.attribute if attribute.name == "training_mode"]
        for attribute in training:
            node.attribute.remove(attribute)
            del node.output[1:]
