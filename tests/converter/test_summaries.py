"""Networks that use sums over the whole map in the map: refused with node and reason, in memory linear in the map."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.conversion import SILENT

from converter import convert as conversion
from converter.errors import ConversionError
from converter.sources.read import read_source

MIB = 1 << 20
REASON = "mixes a summary of the whole map back into the map (as squeeze-and-excite and group normalisation do)"
CONV = ["Conv: image k -> c"]
HEAD = ["GlobalAveragePool: x -> p", "Flatten: p -> f", "Gemm: f w -> z"]
SPREAD = ["Sub: g mu -> d", "Mul: d d -> dd"]
DIVIDED = ["Add: var eps -> ve", "Sqrt: ve -> sd", "Div: d sd -> n", "Reshape: n map -> x"]
WAYS = {
    "groups": ["Reshape: c five -> g", "ReduceMean: g -> mu 2 3 4", *SPREAD, "ReduceMean: dd -> var 2 3 4", *DIVIDED],
    "flat groups": ["Reshape: c three -> g", "ReduceMean: g -> mu 2", *SPREAD, "ReduceMean: dd -> var 2", *DIVIDED],
    "layer": ["Identity: c -> g", "ReduceMean: g -> mu 1 2 3", *SPREAD, "ReduceMean: dd -> var 1 2 3", *DIVIDED],
    "sums": [
        "Reshape: c five -> g",
        "ReduceSum: g -> sum 2 3 4",
        "Div: sum count -> mu",
        "Sub: g mu -> d",
        "Abs: d -> n",
        "Reshape: n map -> x",
    ],
    "expanded": ["ReduceMean: c -> mu 1 2 3", "Expand: mu map -> e", "Sub: c e -> d", "Abs: d -> x"],
    "squares": [
        "Reshape: c five -> g",
        "ReduceMean: g -> mu 2 3 4",
        "Mul: mu mu -> m2",
        "Sub: g m2 -> d",
        "Reshape: d map -> x",
    ],
}


def network(way: list[str], pixels: int) -> onnx.ModelProto:
    """Return a classifier of windows of `pixels` pixels a side, from lines like "ReduceMean: g -> mu 2 3 4"."""
    rng, side = np.random.default_rng(0), (pixels - 3) // 2 + 1
    constants = {
        "k": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "w": rng.standard_normal((8, 4)).astype(np.float32),
        "five": np.array([1, 4, 2, side, side]),
        "three": np.array([1, 4, 2 * side * side]),
        "map": np.array([1, 8, side, side]),
        "eps": np.array(1e-5, np.float32),
        "count": np.array(2 * side * side, np.float32),
    }
    nodes = []
    for line in [*CONV, *way, *HEAD]:
        op, operands = line.split(": ")
        inputs, outputs = operands.split(" -> ")
        output, *axes = outputs.split()
        own = inputs.split()
        if op == "ReduceSum":
            constants["axes"] = np.array(list(map(int, axes)))
            own.append("axes")
        attributes: dict[str, Any] = {"axes": list(map(int, axes))} if op == "ReduceMean" else {}
        attributes |= {"strides": [2, 2]} if op == "Conv" else {}
        nodes.append(helper.make_node(op, own, [output], name=output, **attributes))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, pixels, pixels])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def refusal(proto: onnx.ModelProto, folder: Path) -> str:
    """Convert and return the refusal's message."""
    onnx.save(proto, folder / "net.onnx")
    request = conversion.Request(folder / "models" / "net" / "1", windows=4)
    with pytest.raises(ConversionError) as caught:
        conversion.convert(read_source(folder / "net.onnx", arch=None, window=None), request, SILENT)
    assert not (folder / "models").exists()
    return str(caught.value)


@pytest.mark.parametrize("pixels", [32, 161])
@pytest.mark.parametrize("way", WAYS)
def test_sums_over_the_map_are_refused(tmp_path: Path, way: str, pixels: int) -> None:
    """Group normalisation over a map of 51,200 elements is refused with memory of a few times the map's size."""
    tracemalloc.start()
    try:
        expected_message = refusal(network(WAYS[way], pixels), tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert expected_message.startswith("node '")
    assert f"): {REASON}; use --crops-only to score window by window" in expected_message
    assert peak < 64 * MIB
