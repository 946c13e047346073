"""ONNX Runtime on graphs under construction.

Weights go into an external file in a scratch directory and are mapped from there: a message with the weights inside
could not exceed 2 GB.
"""

import tempfile
from pathlib import Path

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


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())[:300]
