"""ONNX files, as exporters write them: one float image in, one row of scores out."""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter

from converter.errors import SourceError, UnsupportedError
from converter.runtime import one_line
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from protos import model_pb2

OPSET = 19
"""The oldest operator set that is delivered; what is older is converted to it."""


def read_classifier(path: Path, window: tuple[int, int] | None) -> Classifier:
    """Read a classifier; `window` (height, width) is needed where the file leaves the size open."""
    proto, model = _load(path)
    image = _only_input(model)
    layout = _layout(image)
    return Classifier(
        original=model,
        model=_modern(proto, path),
        window=_window(image, layout, window),
        preprocess="none",
        activation="softmax",
        labels=(),
        source=model_pb2.Source(
            format="onnx",
            sha256=_digest(path),
            producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        ),
        layout=layout,
    )


def _load(path: Path) -> tuple[onnx.ModelProto, ir.Model]:
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
        return proto, ir.from_proto(proto)
    except Exception as error:  # protobuf, the checker and external data each raise their own, unrelated kinds
        reason = one_line(error) or type(error).__name__
        raise SourceError(f"{path}: not a whole, valid ONNX model: {reason}") from None


def _modern(proto: onnx.ModelProto, path: Path) -> ir.Model:
    """A model of its own to rewrite, of an operator set that can be delivered."""
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    try:
        return ir.from_proto(proto if opset >= OPSET else version_converter.convert_version(proto, OPSET))
    except Exception as error:  # the C++ converter raises RuntimeError, ConvertError and more
        reason = one_line(error)
        raise UnsupportedError(f"{path}: opset {opset} does not convert to {OPSET}: {reason}; export it anew") from None


def _digest(path: Path) -> str:
    """SHA-256 of the file, and of the files that hold its weights, in the order of their names."""
    weights = onnx.load(path, load_external_data=False).graph.initializer
    others = {entry.value for tensor in weights for entry in tensor.external_data if entry.key == "location"}
    return sha256(path, *(path.parent / other for other in sorted(others)))


def _only_input(model: ir.Model) -> ir.Value:
    images = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(images) != 1:
        names = ", ".join(str(value.name) for value in images)
        raise UnsupportedError(f"inputs: expected one image, got {len(images)}: {names or 'none'}")
    (image,) = images
    if image.dtype != ir.DataType.FLOAT or image.shape is None or image.shape.rank() != 4:
        raise UnsupportedError(
            f"input {image.name!r}: expected float32 N,C,H,W or N,H,W,C, got {image.dtype} {image.shape}; "
            "is it a 2-D net?"
        )
    return image


def _layout(image: ir.Value) -> str:
    """Channels last if there are as few as images have at that end alone."""
    assert image.shape is not None  # noqa: S101 (checked when the input was chosen)
    last = image.shape[1] not in (1, 3) and image.shape[3] in (1, 3)
    layout = "NHWC" if last or not isinstance(image.shape[1], int) else "NCHW"
    if not isinstance(image.shape[layout.index("C")], int):
        raise UnsupportedError(f"input {image.name!r}: expected a fixed number of channels, got {image.shape}")
    return layout


def _window(image: ir.Value, layout: str, asked: tuple[int, int] | None) -> tuple[int, int]:
    assert image.shape is not None  # noqa: S101 (checked when the input was chosen)
    sizes = [image.shape[layout.index(axis)] for axis in "HW"]
    height, width = (size if isinstance(size, int) else None for size in sizes)
    if asked is None and (height is None or width is None):
        raise SourceError(f"window: the file leaves its input's size open ({image.shape}); say --window HEIGHTxWIDTH")
    if asked is None:
        return height or 0, width or 0
    for name, got, fixed in (("height", asked[0], height), ("width", asked[1], width)):
        if fixed not in (None, got):
            raise SourceError(f"window: the file's {name} is {fixed}, got {got}; leave --window out or export anew")
    return asked
