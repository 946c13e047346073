"""Heads that pool or compare features in their own way convert exactly: every cell is the source's own score."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from onnx import numpy_helper
from support.conversion import SILENT
from support.pictures import noise
from support.written_graphs import graph, node

from converter import convert as conversion
from converter.sources.read import read_source

RNG = np.random.default_rng(5)
CONSTANTS = {
    "w": RNG.standard_normal((400, 5)) / 20,
    "w15": RNG.standard_normal((400, 15)) / 20,
    "w4": RNG.standard_normal((4, 5)) / 2,
    "w2": RNG.standard_normal((2, 5)),
    "w16": RNG.standard_normal((16, 5)) / 4,
    "w120": RNG.standard_normal((120, 5)) / 11,
    "w40": RNG.standard_normal((40, 5)) / 6,
    "w200": RNG.standard_normal((200, 5)) / 14,
    "space": np.array([2, 3]),
    "rows": np.array([2]),
    "columns": np.array([3]),
    "one": np.array([1]),
    "two": np.array([2]),
    "units": np.array([1, 5, 3]),
    "pairs": np.array([1, 2, 2, 10, 10]),
    "positions": np.array([1, 4, 100]),
    "row": np.array([1, 16]),
    "four": np.array(4.0),
    "step": np.array(0.02),
}
MAP = "Conv: image k -> x"
POOLED = ["MatMul: p w4 -> y"]
HEADS = {
    "log-sum-exp": [MAP, node("ReduceLogSumExp: x space -> p", keepdims=0), *POOLED],
    "log-sum-exp of large numbers": [
        MAP,
        node("Mul: x four -> a"),
        node("Exp: a -> l"),
        node("ReduceLogSumExp: l space -> p", keepdims=0),
        *POOLED,
    ],
    "log-sum-exp of columns": [
        MAP,
        node("ReduceLogSumExp: x rows -> r", keepdims=1),
        "Flatten: r -> f",
        "MatMul: f w40 -> y",
    ],
    "smallest": [MAP, node("ReduceMin: x space -> p", keepdims=0), *POOLED],
    "absolute sum": [MAP, node("ReduceL1: x space -> p", keepdims=0), *POOLED],
    "length": [MAP, node("ReduceL2: x space -> p", keepdims=0), *POOLED],
    "energy": [MAP, node("ReduceSumSquare: x space -> s", keepdims=0), "Relu: s -> p", *POOLED],
    "sum, then activation": [MAP, node("ReduceSum: x space -> s", keepdims=0), "Relu: s -> p", *POOLED],
    "maxout": [
        MAP,
        "Flatten: x -> f",
        "MatMul: f w15 -> m",
        "Reshape: m units -> u",
        node("ReduceMax: u two -> y", keepdims=0),
    ],
    "least of units": [
        MAP,
        "Flatten: x -> f",
        "MatMul: f w15 -> m",
        "Reshape: m units -> u",
        node("ReduceMin: u two -> y", keepdims=0),
    ],
    "maxout of maps": [
        MAP,
        "Reshape: x pairs -> u",
        node("ReduceMax: u two -> m", keepdims=0),
        "Flatten: m -> f",
        "MatMul: f w200 -> y",
    ],
    "cosine of the pooled map": [
        MAP,
        node("GlobalMaxPool: x -> g"),
        "Flatten: g -> f",
        node("ReduceL2: f one -> n", keepdims=1),
        "Div: f n -> p",
        *POOLED,
    ],
    "cosine of the flattened map": [
        MAP,
        "Flatten: x -> f",
        node("ReduceL2: f one -> n", keepdims=1),
        "MatMul: f w -> m",
        "Div: m n -> y",
    ],
    "normalised flattened map": [
        MAP,
        "Flatten: x -> f",
        node("ReduceL2: f one -> n", keepdims=1),
        "Div: f n -> d",
        "MatMul: d w -> y",
    ],
    "pyramid": [
        MAP,
        *(node(f"MaxPool: x -> p{side}", kernel_shape=[side] * 2, strides=[side] * 2) for side in (10, 5, 2)),
        *(f"Flatten: p{side} -> f{side}" for side in (10, 5, 2)),
        node("Concat: f10 f5 f2 -> f", axis=1),
        "MatMul: f w120 -> y",
    ],
    "pyramid of overlapping pools": [
        MAP,
        node("MaxPool: x -> a", kernel_shape=[4, 4], strides=[3, 3]),
        node("AveragePool: x -> e", kernel_shape=[10, 10]),
        "Flatten: a -> c",
        "Flatten: e -> d",
        node("Concat: c d -> f", axis=1),
        "MatMul: f w40 -> y",
    ],
    "bilinear": [
        MAP,
        "Reshape: x positions -> l",
        node("Transpose: l -> r", perm=[0, 2, 1]),
        "MatMul: l r -> m",
        "Div: m four -> d",
        "Reshape: d row -> v",
        "Sign: v -> sign",
        "Abs: v -> abs",
        "Sqrt: abs -> root",
        "Mul: sign root -> s",
        node("ReduceL2: s one -> n", keepdims=1),
        "Div: s n -> u",
        "MatMul: u w16 -> y",
    ],
    "gate of channels last": [
        MAP,
        node("Transpose: x -> l", perm=[0, 2, 3, 1]),
        node("Split: l -> a h", axis=3, num_outputs=2),
        "Sigmoid: h -> s",
        "Mul: a s -> g",
        node("ReduceMean: g middle -> p", keepdims=0),
        "MatMul: p w2 -> y",
    ],
}


@pytest.mark.parametrize("nodes", HEADS.values(), ids=HEADS)
def test_heads_are_exact(tmp_path: Path, nodes: list[str]) -> None:
    """The network is exact, also at a finer stride, and every cell equals the source network on its window."""
    proto = graph(nodes)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in CONSTANTS and tensor.name != "middle"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for name, array in {**CONSTANTS, "middle": np.array([1, 2])}.items():
        proto.graph.initializer.append(
            numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)
        )
    onnx.save(proto, tmp_path / "net.onnx")
    request = conversion.Request(tmp_path / "net" / "1", windows=4, preprocess="unit")
    report = conversion.convert(read_source(tmp_path / "net.onnx", arch=None, window=None), request, SILENT)
    assert report.spec.parity[0].exact
    pixels = noise(16, 14, 3)
    (grid,) = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx").run(None, {"image": pixels[None]})
    original = ort.InferenceSession(tmp_path / "net.onnx")
    for row, col in np.ndindex(*grid.shape[2:]):
        crop = np.moveaxis(pixels[row : row + 10, col : col + 10], -1, 0)[None] / np.float32(255)
        expected = original.run(None, {"image": crop})[0][0]
        assert_allclose(grid[0, :, row, col], expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
