"""Runs graphs under construction with ONNX Runtime, and keeps their weights in files.

This process and ONNX Runtime memory-map the weights: a message with the weights inside could not exceed 2 GB, and every
session would copy them. Sessions do not share one mapping (`add_initializer`): some optimisers of ONNX Runtime
transpose a weight under its own name, and the shared weight would then have the wrong layout.
"""

import functools
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.external_data import convert_tensors_to_external

from converter.errors import UnsupportedError
from converter.messages import one_line
from fullconv.common.optimisers import LOSSY_OPTIMISERS
from fullconv.common.temporary import remove

INLINE_BYTES = 256
"""Largest size in bytes of constants that stay in the graph, where shape inference finds them."""
IN_FLIGHT_BYTES = 64 << 20
"""Limit on the bytes that are copied at a time while weights are written."""
WRONG_OPTIMISERS = ["Pad_Fusion", *LOSSY_OPTIMISERS]
"""Optimisers that change results. Pad_Fusion makes a MaxPool pad with −∞ where a Pad has put zeros; a source may have
both operators, and in converted models SeparatePadsPass keeps them apart."""


def move_weights(models: Sequence[ir.Model], folder: Path, name: str) -> None:
    """Write the weights of some models into one file and memory-map them there, in place.

    Models that share weights still share them afterwards. No model refers to the previous place of its weights.
    """
    values = [value for model in models for value in model.graph.initializers.values()]
    tensors = {id(tensor): tensor for value in values if (tensor := value.const_value) is not None}
    large = {key: tensor for key, tensor in tensors.items() if tensor.nbytes > INLINE_BYTES}
    written = convert_tensors_to_external(list(large.values()), folder, name, max_in_flight_bytes=IN_FLIGHT_BYTES)
    moved: dict[int, ir.TensorProtocol] = dict(zip(large, written, strict=True))
    moved |= {key: _copy(tensor) for key, tensor in tensors.items() if key not in large}
    for value in values:
        if value.const_value is not None:
            value.const_value = moved[id(value.const_value)]


def _copy(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a small constant in memory of its own; it may have been a view of a memory-mapped file."""
    return tensor if tensor.dtype == ir.DataType.STRING else ir.tensor(tensor.numpy().copy(), name=tensor.name)


def release_weights(model: ir.Model) -> None:
    """Unmap a model's weights until they are read again; nothing else may refer to them."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value.release()


def session(model: ir.Model, folder: Path, *, optimise: bool = True) -> ort.InferenceSession:
    """Load a graph whose weights lie in a file of the folder; `optimise=False` keeps every intermediate value.

    ONNX Runtime is set not to copy the weights into other layouts: it is a third slower, and needs a third of the
    memory.
    Raises UnsupportedError if ONNX Runtime cannot load the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimise else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    file = folder / f"{secrets.token_hex(8)}.onnx"
    try:
        ir.save(model, file)
        try:
            return ort.InferenceSession(
                file, options, providers=["CPUExecutionProvider"], disabled_optimizers=WRONG_OPTIMISERS
            )
        except Exception as error:  # each stage of loading raises errors of another class
            raise UnsupportedError(f"ONNX Runtime cannot load the network: {one_line(error)}") from None
    finally:
        remove(file)


LOAD = """
import ctypes, signal, sys
getattr(ctypes.CDLL(None), "prctl", lambda *_: None)(1, signal.SIGKILL)
import onnxruntime
for file in sys.argv[1:]:
    onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
"""
"""Program that loads files. On Linux the system kills it if this process ends (PR_SET_PDEATHSIG of prctl)."""


def loading_problem(files: Sequence[Path]) -> str | None:
    """Return the reason why a server could not load one of the files with all optimisations; None if it can load all.

    The files are loaded in another process, because some graphs crash ONNX Runtime.
    """
    done = subprocess.run([sys.executable, "-c", LOAD, *files], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode < 0:
        return f"ONNX Runtime {ort.__version__} crashes on it (signal {-done.returncode})"
    return f"ONNX Runtime {ort.__version__}: {done.stderr.splitlines()[-1][:300]}" if done.returncode else None


@functools.cache
def newest_known() -> tuple[int, int]:
    """Return the newest ir_version and default operator set that both onnx and ONNX Runtime can load."""
    ir_versions, opsets = range(onnx.IR_VERSION, 0, -1), range(onnx.defs.onnx_opset_version(), 0, -1)
    ir_version = next(version for version in ir_versions if _loads(version, opset=1))
    return ir_version, next(opset for opset in opsets if _loads(ir_version, opset))


def _loads(ir_version: int, opset: int) -> bool:
    """Return whether ONNX Runtime loads an empty graph of these versions."""
    ends = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "empty", [ends], [ends])
    opsets = [onnx.helper.make_opsetid("", opset)]
    proto = onnx.helper.make_model(graph, ir_version=ir_version, opset_imports=opsets)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime raises errors of its own classes
        return False
    return True
