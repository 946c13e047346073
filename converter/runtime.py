"""ONNX Runtime on graphs under construction.

Weights go into an external file in a scratch directory and are mapped from there: a message with the weights inside
could not exceed 2 GB.
"""

import functools
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort

from converter.errors import UnsupportedError


def session(model: ir.Model, scratch: Path, *, optimise: bool = True) -> ort.InferenceSession:
    """Load a graph; `optimise=False` keeps every intermediate value.

    Raises UnsupportedError if ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="weights.data")
        try:
            return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a different kind for every stage of loading
            raise UnsupportedError(f"ONNX Runtime cannot load the network: {one_line(error)}") from None


@functools.cache
def newest_known() -> tuple[int, int]:
    """The newest ir_version and default operator set that both onnx and ONNX Runtime know, found by trying."""
    ir_versions, opsets = range(onnx.IR_VERSION, 0, -1), range(onnx.defs.onnx_opset_version(), 0, -1)
    ir_version = next(version for version in ir_versions if _loads(version, opset=1))
    return ir_version, next(opset for opset in opsets if _loads(ir_version, opset))


def _loads(ir_version: int, opset: int) -> bool:
    """Whether ONNX Runtime takes an empty graph of these versions."""
    ends = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "empty", [ends], [ends])
    opsets = [onnx.helper.make_opsetid("", opset)]
    proto = onnx.helper.make_model(graph, ir_version=ir_version, opset_imports=opsets)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime raises its own kinds
        return False
    return True


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())[:300]
