"""Graphs for tests of the converter's passes: models from ONNX's text form, and their outputs."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper


def model(text: str, *, opset: int = 19, ir_version: int = 9, **constants: NDArray[np.generic]) -> ir.Model:
    """Return a model from lines like "c = Conv (image, k)"; each node is named like its first output.

    The first line declares inputs and outputs, "image: float[N,3,8,8] -> y: float[N,5]".
    """
    ends, *lines = text.strip().splitlines()
    image, scores = (end.strip().split(": ") for end in ends.split("->"))
    declared = f"net ({image[1]} {image[0]}) => ({scores[1]} {scores[0]})"
    body = "\n".join(lines)
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{declared}\n{{\n{body}\n}}'
    )
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    for node in proto.graph.node:
        node.name = node.output[0]
    return ir.from_proto(proto)


def serialised(network: ir.Model) -> bytes:
    """Return the bytes of the model file."""
    return ir.to_proto(network).SerializeToString(deterministic=True)


def run(network: ir.Model, image: NDArray[np.generic], *, optimise: bool = False) -> NDArray[np.float32]:
    """Return ONNX Runtime's output for an image, with all its optimisations or none."""
    options, levels = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.log_severity_level = 4
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(network).SerializeToString(), options)
    scores: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: image})[0]
    return scores


def operators(network: ir.Model) -> list[str]:
    """Return the operators of a graph's nodes, in order."""
    return [node.op_type for node in network.graph]
