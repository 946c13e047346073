"""Reads ONNX files of exporters, with an image as input and one row of scores as output.

Refused: files of 2 GB or more, which protobuf cannot hold (their weights belong in external files), versions newer than
the installed ONNX Runtime, more nodes than networks have, windows too large for a test run, and the weights that
`onnx_weights` refuses.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import shape_inference, version_converter
from onnx_ir.passes.common import CheckerPass, TopologicalSortPass

from converter.errors import ConversionError, SourceError, UnsupportedError
from converter.graph.passes.stop_dropout import StopDropoutPass
from converter.graph.passes.upgrade_operators import UpgradeOperatorsPass, opset
from converter.graph.passes.widen_floats import WidenFloatsPass
from converter.messages import one_line
from converter.runtime import newest_known
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.onnx_image import set_image
from converter.sources.onnx_scores import add_batch_axis, set_log_softmax, set_scores
from converter.sources.onnx_weights import ExternalWeights
from fullconv.protos import model_pb2

OPSET = 19
"""The oldest operator set of converted models; older operator sets are converted to it."""
MAX_FILE_BYTES = (2 << 30) - 1  # the limit of protobuf
MAX_NODES = 200_000
"""Limit on nodes and their inputs, outputs and attributes; each needs about 1 kB of memory, and few bytes of a file."""
MAX_INPUT = 1 << 26
"""Limit on the numbers in one batch of windows: 256 MiB, enough for a window of 4096×4096 pixels in colour."""
SMALL = 1 << 10
"""Largest size in bytes of constants that may be parameters (axes, a shape), which version conversion needs."""

Name = tuple[str, str, str]
Functions = Mapping[Name, onnx.FunctionProto]

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # its log records about damaged files are long


def read_onnx(path: Path, window: tuple[int, int] | None) -> Classifier:
    """Read a classifier; `window` (height, width) in pixels is needed if the file leaves the size open."""
    weights = ExternalWeights(path.absolute().parent)
    model, labels = _load(path, weights)
    layout = set_image(model.graph, window)
    add_batch_axis(model.graph)
    set_log_softmax(model.graph)
    (image,) = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    return Classifier(
        original=model,
        model=_upgraded_copy(model, path),
        window=_window(image, layout, window),
        preprocess="none",
        activation="softmax",
        labels=labels,
        source=model_pb2.Source(
            format="onnx",
            sha256=sha256(path, *weights.paths),
            producer=f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        ),
        layout=layout,
    )


def _load(path: Path, weights: ExternalWeights) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the network with a graph that ends in scores, and the labels that the file states, if any."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SourceError(
            f"{path}: expected less than 2 GB, the limit of protobuf; export the weights as external data"
        )
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
        _check_versions(proto, path)
        _check_node_count(proto, path)
        _forget_collections(proto.graph)
        with warnings.catch_warnings(action="ignore"):  # warnings about keys that onnx does not know
            model = ir.from_proto(proto)
        weights.load(model)
        UpgradeOperatorsPass()(model)
        WidenFloatsPass()(model)
        StopDropoutPass()(model)
        TopologicalSortPass()(model)
        labels = set_scores(model)
        CheckerPass()(model)
    except (ConversionError, MemoryError):
        raise
    except Exception as error:  # protobuf, onnx-ir and the checker raise errors of unrelated classes
        cause = error
        while isinstance(cause.__context__, Exception):  # in onnx-ir's chain of errors the cause is last
            cause = cause.__context__
        reason = one_line(cause) or type(cause).__name__
        raise SourceError(f"{path}: expected a complete, valid ONNX model: {reason}") from None
    return model, labels


def _forget_collections(graph: onnx.GraphProto) -> None:
    """Remove the types of values that are sequences or maps, which onnx-ir does not know."""
    for value in (*graph.output, *graph.value_info):
        if value.type.WhichOneof("value") in ("map_type", "sequence_type"):
            value.ClearField("type")


def _check_versions(proto: onnx.ModelProto, path: Path) -> None:
    """Raise SourceError for versions that the installed ONNX Runtime does not know."""
    ir_version, opset = newest_known()
    if proto.ir_version > ir_version:
        raise SourceError(
            f"{path}: expected ir_version {ir_version} at most, the newest that the installed ONNX Runtime knows, "
            f"got {proto.ir_version}; upgrade onnxruntime, or export with an older onnx"
        )
    got = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if got > opset:
        raise SourceError(
            f"{path}: expected operator set {opset} at most, the newest that the installed ONNX Runtime knows, "
            f"got {got}; upgrade onnxruntime, or export with opset_version={opset}"
        )


def _check_node_count(proto: onnx.ModelProto, path: Path) -> None:
    """Raise SourceError for too many nodes and values: they need far more memory than their bytes in the file."""
    graph = proto.graph
    functions = {(function.domain, function.name, function.overload): function for function in proto.functions}
    values = len(graph.initializer) + len(graph.input) + len(graph.output) + len(graph.value_info) + len(functions)
    if values + _count(graph.node, functions, {}) > MAX_NODES:
        raise SourceError(
            f"{path}: expected at most {MAX_NODES} nodes and values, functions counted at every call, got more"
        )


def _count(nodes: Sequence[onnx.NodeProto], functions: Functions, known: dict[Name, int]) -> int:
    """Return the number of nodes and values once functions are inlined, or a number above the limit.

    Raises RecursionError for functions that call themselves.
    """
    total = 0
    for node in nodes:
        name = (node.domain, node.op_type, node.overload)
        if name in functions and name not in known:
            known[name] = _count(functions[name].node, functions, known)
        total += 1 + len(node.input) + len(node.output) + len(node.attribute) + known.get(name, 0)
        for attribute in node.attribute:
            total += sum(_count(graph.node, functions, known) for graph in (attribute.g, *attribute.graphs))
        if total > MAX_NODES:
            break
    return total


def _upgraded_copy(model: ir.Model, path: Path) -> ir.Model:
    """Return a copy with operator set OPSET or later, to be rewritten; it shares the weights."""
    copy = model.clone()
    if opset(model) >= OPSET:
        return copy
    try:
        return _convert_version(copy)
    except MemoryError:
        raise
    except Exception as error:  # the C++ converter raises RuntimeError, ConvertError and more
        reason = one_line(error)
        raise UnsupportedError(
            f"{path}: opset {opset(model)} does not convert to {OPSET}: {reason}; export it again"
        ) from None


def _convert_version(model: ir.Model) -> ir.Model:
    """Convert to operator set OPSET. Inputs replace the weights temporarily, since these may not fit one message."""
    weights = {name: value for name, value in model.graph.initializers.items() if _is_large(value)}
    inputs = {value.name for value in model.graph.inputs}
    for name, value in weights.items():
        del model.graph.initializers[name]
        if name not in inputs:
            model.graph.inputs.append(value)
    proto = shape_inference.infer_shapes(ir.to_proto(model))
    converted = ir.from_proto(version_converter.convert_version(proto, OPSET))
    for value in list(converted.graph.inputs):
        if value.name in weights:
            value.const_value = weights[value.name].const_value
            converted.graph.register_initializer(value)
            if value.name not in inputs:
                converted.graph.inputs.remove(value)
    return converted


def _is_large(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.nbytes > SMALL


def _window(image: ir.Value, layout: str, asked: tuple[int, int] | None) -> tuple[int, int]:
    assert image.shape is not None  # noqa: S101 (checked when the input was chosen)
    sizes = [image.shape[layout.index(axis)] for axis in "NCHW"]
    batch, channels, height, width = (size if isinstance(size, int) else None for size in sizes)
    if asked is None and (height is None or width is None):
        raise SourceError(
            f"window: expected an input size, which the file leaves open ({image.shape}); give --window HEIGHTxWIDTH"
        )
    window = asked or (height or 0, width or 0)
    for name, got, fixed in (("height", window[0], height), ("width", window[1], width)):
        if fixed not in (None, got):
            raise SourceError(f"window: the file's {name} is {fixed}, got {got}; leave --window out, or export again")
    check_input(image.name, (1 if batch is None else batch, channels or 0, *window))
    return window


def check_input(name: str | None, sizes: Sequence[int]) -> None:
    """Raise SourceError if an input of these sizes is empty or too large for a test run."""
    if min(sizes) < 1 or math.prod(sizes) > MAX_INPUT:
        raise SourceError(f"input {name!r}: expected 1 to {MAX_INPUT} numbers, got {'×'.join(map(str, sizes))}")
