"""ONNX files, as exporters write them: one float image in, one row of scores out.

Refused: files of 2 GB or more, which no protobuf has (their weights belong beside them), versions newer than the
installed ONNX Runtime, more nodes than any network has, windows too large to try, and what `onnx_weights` refuses.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import shape_inference, version_converter
from onnx_ir.passes.common import CheckerPass

from converter.errors import SourceError, UnsupportedError
from converter.graph.operators import ARITHMETIC, ELEMENTWISE, WINDOWED
from converter.graph.passes.stop_dropout import StopDropoutPass
from converter.graph.passes.upgrade_operators import UpgradeOperatorsPass, opset
from converter.graph.passes.widen_floats import WidenFloatsPass
from converter.messages import one_line
from converter.runtime import newest_known
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.onnx_weights import Weights
from fullconv.protos import model_pb2

OPSET = 19
"""The oldest operator set that is delivered; what is older is converted to it."""
MAX_FILE_BYTES = (2 << 30) - 1  # protobuf's
MAX_NODES = 200_000
"""And their inputs, outputs and attributes; each takes about 1 kB of memory, however few bytes of the file."""
MAX_INPUT = 1 << 26
"""Numbers in one batch of windows, 256 MiB; a window of 4096×4096 pixels in colour is within it."""
SMALL = 1 << 10
"""Bytes of a constant that says how (axes, shapes), rather than what; larger ones need no conversion."""

Name = tuple[str, str, str]
Functions = Mapping[Name, onnx.FunctionProto]

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # it describes damage at length before refusing it


def read_classifier(path: Path, window: tuple[int, int] | None) -> Classifier:
    """Read a classifier; `window` (height, width) is needed where the file leaves the size open."""
    weights = Weights(path.absolute().parent)
    model = _load(path, weights)
    image = _only_input(model)
    layout = _layout(image)
    return Classifier(
        original=model,
        model=_modern(model, path),
        window=_window(image, layout, window),
        preprocess="none",
        activation="softmax",
        labels=(),
        source=model_pb2.Source(
            format="onnx",
            sha256=sha256(path, *weights.paths),
            producer=f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        ),
        layout=layout,
    )


def _load(path: Path, weights: Weights) -> ir.Model:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SourceError(f"{path}: expected less than 2 GB, as protobuf has it; export the weights as external data")
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
        _check_versions(proto, path)
        _check_extent(proto, path)
        with warnings.catch_warnings(action="ignore"):  # onnx tells of keys that it does not know
            model = ir.from_proto(proto)
        weights.load(model)
        UpgradeOperatorsPass()(model)
        WidenFloatsPass()(model)
        StopDropoutPass()(model)
        CheckerPass()(model)
    except (SourceError, MemoryError):
        raise
    except Exception as error:  # protobuf, onnx-ir and the checker each raise their own, unrelated kinds
        cause = error
        while isinstance(cause.__context__, Exception):  # onnx-ir tells the way to the fault, and the fault last
            cause = cause.__context__
        reason = one_line(cause) or type(cause).__name__
        raise SourceError(f"{path}: not a whole, valid ONNX model: {reason}") from None
    return model


def _check_versions(proto: onnx.ModelProto, path: Path) -> None:
    """Newer versions than the runtime's could mean anything."""
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


def _check_extent(proto: onnx.ModelProto, path: Path) -> None:
    """Nodes and values take far more memory than bytes in the file, and functions multiply them."""
    graph = proto.graph
    functions = {(function.domain, function.name, function.overload): function for function in proto.functions}
    values = len(graph.initializer) + len(graph.input) + len(graph.output) + len(graph.value_info) + len(functions)
    if values + _count(graph.node, functions, {}) > MAX_NODES:
        raise SourceError(
            f"{path}: expected at most {MAX_NODES} nodes and values, functions counted at every call, got more"
        )


def _count(nodes: Sequence[onnx.NodeProto], functions: Functions, known: dict[Name, int]) -> int:
    """How many there are once functions are inlined, or any number too large; RecursionError if that never ends."""
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


def _modern(model: ir.Model, path: Path) -> ir.Model:
    """A model of its own to rewrite, of an operator set that can be delivered; it shares the weights."""
    modern = model.clone()
    if opset(model) >= OPSET:
        return modern
    try:
        return _converted(modern)
    except MemoryError:
        raise
    except Exception as error:  # the C++ converter raises RuntimeError, ConvertError and more
        reason = one_line(error)
        raise UnsupportedError(
            f"{path}: opset {opset(model)} does not convert to {OPSET}: {reason}; export it anew"
        ) from None


def _converted(model: ir.Model) -> ir.Model:
    """Convert with inputs in place of the weights, which need not fit into one message then."""
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


def _only_input(model: ir.Model) -> ir.Value:
    images = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(images) != 1:
        names = ", ".join(str(value.name) for value in images)
        raise UnsupportedError(f"inputs: expected one image, got {len(images)}: {names or 'none'}")
    (image,) = images
    if image.dtype not in (ir.DataType.FLOAT, ir.DataType.UINT8) or image.shape is None or image.shape.rank() != 4:
        raise UnsupportedError(
            f"input {image.name!r}: expected float32 or uint8 N,C,H,W or N,H,W,C, got {image.dtype} {image.shape}; "
            "is it a 2-D net?"
        )
    return image


def _layout(image: ir.Value) -> str:
    """As the graph reads it; else channels last if there are as few as images have at that end alone."""
    assert image.shape is not None  # noqa: S101 (checked when the input was chosen)
    last = image.shape[1] not in (1, 3) and image.shape[3] in (1, 3)
    layout = _read_as(image) or ("NHWC" if last or not isinstance(image.shape[1], int) else "NCHW")
    if not isinstance(image.shape[layout.index("C")], int):
        raise UnsupportedError(f"input {image.name!r}: expected a fixed number of channels, got {image.shape}")
    return layout


def _read_as(image: ir.Value) -> str | None:
    """What the graph takes an image for: convolutions want channels first, and a Transpose may bring them there."""
    pending, seen = [image], {image}
    while pending:
        for node in [use.node for use in pending.pop().uses()]:
            if node.op_type in WINDOWED:
                return "NCHW"
            if node.op_type == "Transpose" and "perm" in node.attributes:
                return "NHWC" if list(node.attributes["perm"].as_ints()) == [0, 3, 1, 2] else None
            if node.op_type in ELEMENTWISE | ARITHMETIC and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
    return None


def _window(image: ir.Value, layout: str, asked: tuple[int, int] | None) -> tuple[int, int]:
    assert image.shape is not None  # noqa: S101 (checked when the input was chosen)
    sizes = [image.shape[layout.index(axis)] for axis in "NCHW"]
    batch, channels, height, width = (size if isinstance(size, int) else None for size in sizes)
    if asked is None and (height is None or width is None):
        raise SourceError(f"window: the file leaves its input's size open ({image.shape}); say --window HEIGHTxWIDTH")
    window = asked or (height or 0, width or 0)
    for name, got, fixed in (("height", window[0], height), ("width", window[1], width)):
        if fixed not in (None, got):
            raise SourceError(f"window: the file's {name} is {fixed}, got {got}; leave --window out or export anew")
    check_input(image.name, (1 if batch is None else batch, channels or 0, *window))
    return window


def check_input(name: str | None, sizes: Sequence[int]) -> None:
    """Raise SourceError if an input of those sizes is empty, or too large to try."""
    if min(sizes) < 1 or math.prod(sizes) > MAX_INPUT:
        raise SourceError(f"input {name!r}: expected 1 to {MAX_INPUT} numbers, got {'×'.join(map(str, sizes))}")
