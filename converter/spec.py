"""The ModelSpec: the description of a model for the service, as a message and as metadata of an ONNX file."""

from pathlib import Path

import onnx
from google.protobuf import json_format

from converter.errors import SourceError, VerificationError
from converter.graph.converted import ConvertedGraph
from converter.graph.geometry import AxisGeometry
from converter.graph.scores import SCORES
from converter.messages import one_line
from converter.sources.classifier import Classifier
from converter.verify.certificates import ModelFiles
from fullconv.common.model_files import SPEC_KEY, SPEC_VERSION
from fullconv.protos import model_pb2

KINDS = {"softmax": "logits-softmax", "sigmoid": "logits-sigmoid", "none": "raw"}
"""The kind of scores that --activation declares for a network without a final activation."""
ORDERS = {1: "GRAY", 3: "RGB"}


def describe(
    name: str, classifier: Classifier, network: ConvertedGraph, files: ModelFiles, activation: str | None
) -> model_pb2.ModelSpec:
    """Return the ModelSpec without labels, weights, parity and mode shared.

    `activation` is the user's choice; None stands for the classifier's default. Raises SourceError if it contradicts
    the network.
    """
    height, width = classifier.window
    image = network.model.graph.inputs[0]
    assert image.dtype is not None  # noqa: S101 (readers check it)
    return model_pb2.ModelSpec(
        spec_version=SPEC_VERSION,
        name=name,
        window=model_pb2.Size(height=height, width=width),
        vertical=_axis(network.geometry.vertical),
        horizontal=_axis(network.geometry.horizontal),
        input=model_pb2.Input(
            name=str(image.name),
            dtype=image.dtype.numpy().name,
            layout=network.layout,
            channels=network.channels,
            order=ORDERS.get(network.channels, ""),
        ),
        output=model_pb2.Output(
            name=SCORES,
            kind=_kind(network, activation, classifier.activation),
            classes=network.classes,
            further=[model_pb2.FurtherOutput(name=name, values=values) for name, values in network.further.items()],
        ),
        modes=["dense", "crops"] if network.mode == "dense" else ["crops"],
        strides=[model_pb2.StrideFile(stride=file.cost.stride, file=file.name) for file in files.variants],
        cost=[file.cost for file in files.variants],
        source=classifier.source,
    )


def _axis(axis: AxisGeometry) -> model_pb2.AxisGeometry:
    return model_pb2.AxisGeometry(
        stride=axis.stride,
        receptive_field=axis.receptive_field,
        padding_before=axis.padding_before,
        padding_after=axis.padding_after,
    )


def _kind(network: ConvertedGraph, asked: str | None, default: str) -> str:
    if network.activation is None and network.classes == 1 and default == "softmax":
        if asked == "softmax":
            raise SourceError("activation: expected sigmoid or none, since softmax over one class is always 1")
        return KINDS[asked or "sigmoid"]
    if network.activation is None:
        return KINDS[asked or default]
    if asked is not None:
        raise SourceError(
            f"activation: the network ends in {network.activation} already, got {asked!r}; leave --activation out"
        )
    return "probabilities"


def embed(spec: model_pb2.ModelSpec, file: Path) -> None:
    """Write the spec into an ONNX file's metadata, and check the file; raises VerificationError if it is not valid."""
    proto = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(proto, {SPEC_KEY: json_format.MessageToJson(spec, indent=None)})
    file.write_bytes(proto.SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:  # the checker and shape inference raise errors of their own classes
        raise VerificationError(f"verification: the ONNX checker refuses the result: {one_line(error)}") from None
