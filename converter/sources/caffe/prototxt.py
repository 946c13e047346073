"""Reads prototxts: the layers that a network has at inference, and its image.

Layers that only serve training are left out: layers of phase TRAIN, losses, accuracies. A remaining data layer
represents the network's image. Unknown fields of Caffe's many versions are ignored outside layers. Inside a layer a
field that caffe.proto does not know may change the result: `CaffeLayer.unknown` holds its name, and the layer is
refused when it is built.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from google.protobuf import text_format

from converter.errors import SourceError, UnsupportedError
from converter.messages import one_line
from fullconv.protos.caffe_pb2 import (
    TEST,
    BlobShape,
    LayerParameter,
    NetParameter,
    NetStateRule,
    TransformationParameter,
    V0LayerParameter,
    V1LayerParameter,
)

MAX_BYTES = 2 << 20
"""Limit on the bytes of a prototxt; networks of hundreds of layers have a few hundred kB."""
MAX_LINE = 1 << 14
"""Limit on the characters of a line, which the parser copies into a message whenever it tries the type of a value."""
TOKEN = re.compile(
    r"""
    [#][^\n]*+ | "(?:[^"\\\n]|\\.)*+" | '(?:[^'\\\n]|\\.)*+'    # comments and strings, which are skipped
    | (\w++)(?=\s*+[:{<])\s*+:?\s*+([{<]?)                      # a field's name, and whether it is a message
    | \w++
    | ([{<}>])
    """,
    re.VERBOSE,
)
UNREAD = V0LayerParameter.DESCRIPTOR
"""Descriptor that replaces the descriptors of all messages that are not read."""
HARMLESS = frozenset(
    (
        "accuracy_param", "bias_filler", "blob_share_mode", "blobs_lr", "engine", "filler", "force_color",
        "force_gray", "force_nd_im2col", "loss_param", "loss_weight", "mirror", "moving_average_fraction", "param",
        "propagate_down", "sigmoid_param", "stable_prod_grad", "tanh_param", "weight_decay", "weight_filler",
    )
)  # fmt: skip
"""Fields that control training, or choose between implementations of the same computation."""
V1_TYPES = {
    "CONCAT": "Concat",
    "CONVOLUTION": "Convolution",
    "DROPOUT": "Dropout",
    "ELTWISE": "Eltwise",
    "FLATTEN": "Flatten",
    "INNER_PRODUCT": "InnerProduct",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
}
"""Current names of layer types that the first format stores as numbers. For other types the name of the enum value is
used."""
ACTIVATIONS = {"SigmoidCrossEntropyLoss": "sigmoid", "SoftmaxWithLoss": "softmax"}
"""The activation that each loss applies to scores."""


@dataclass(frozen=True)
class CaffeLayer:
    """One layer, and the names of its fields that caffe.proto does not know."""

    parameters: LayerParameter
    unknown: tuple[str, ...]

    @property
    def type(self) -> str:
        """The current name of the layer's type."""
        return str(self.parameters.type)

    def __str__(self) -> str:
        return f"layer {self.parameters.name!r:.100} ({self.type:.40})"

    @property
    def is_data(self) -> bool:
        """Whether the layer loads images or other data."""
        return self.type.upper().endswith("DATA")

    @property
    def for_training(self) -> bool:
        """Whether the layer only measures the quality of the network, as a loss or an accuracy does."""
        return self.type.upper().endswith(("LOSS", "ACCURACY"))


@dataclass(frozen=True)
class NetImage:
    """The network's input: the name of its blob, and its size as far as the prototxt states it."""

    name: str
    channels: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class CaffeNet:
    """A network at inference; `transform` is the data layer's preprocessing, `activation` that of the loss."""

    name: str
    image: NetImage
    layers: tuple[CaffeLayer, ...]
    transform: TransformationParameter | None
    activation: str


def read_prototxt(path: Path) -> CaffeNet:
    """Read a prototxt of either format of layers; raises ConversionError."""
    net, unknown = _parse(path)
    layers = [*map(_modern, net.layers), *net.layer]
    every = [CaffeLayer(layer, names) for layer, names in zip(layers, unknown, strict=True)]
    used = [layer for layer in every if _is_used(layer.parameters)]
    built = [layer for layer in used if layer.type != "Input" and not layer.is_data and not layer.for_training]
    activations = [ACTIVATIONS[layer.type] for layer in used if layer.type in ACTIVATIONS]
    return CaffeNet(
        name=net.name or path.stem,
        image=_image(net, used, {blob for layer in built for blob in layer.parameters.bottom}),
        layers=tuple(built),
        transform=_transform([*used, *every]),
        activation=activations[-1] if activations else "softmax",
    )


def _parse(path: Path) -> tuple[NetParameter, list[tuple[str, ...]]]:
    """Return the message, and for each layer the names of its unknown fields."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"arch: expected a prototxt, got '{path}': {error.strerror}") from None
    text, net = content.decode("utf-8-sig", "replace"), NetParameter()
    if len(content) > MAX_BYTES or max(map(len, text.split("\n"))) > MAX_LINE:
        raise SourceError(
            f"{path}: expected a prototxt, at most {MAX_BYTES >> 20} MiB of text in lines of {MAX_LINE} characters; "
            "is it the caffemodel?"
        )
    try:
        with warnings.catch_warnings(
            action="ignore", category=DeprecationWarning
        ):  # warnings about the backslashes of Windows paths
            text_format.Parse(text, net, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        raise SourceError(f"{path}: not a valid prototxt: {one_line(error)}") from None
    if any(layer.HasField("layer") for layer in net.layers) or (net.layers and net.layer):
        raise SourceError(
            f"{path}: expected layers in one format from 2014 or later, got older layers or two formats; run Caffe's "
            "upgrade_net_proto_text"
        )
    unknown = _unknown_fields(text)
    if len(unknown) != len(net.layers) + len(net.layer):
        raise SourceError(
            f"{path}: expected every layer written as layer {{ ... }}; run Caffe's upgrade_net_proto_text"
        )
    return net, unknown


def _unknown_fields(text: str) -> list[tuple[str, ...]]:
    """Return, for each layer of a valid prototxt, the dotted names of the fields that caffe.proto does not know."""
    layers: list[list[str]] = []
    inside = [("", NetParameter.DESCRIPTOR)]
    for name, opening, bracket in TOKEN.findall(text):
        prefix, message = inside[-1]
        nested = len(inside) > 1
        if bracket in ("}", ">") and nested:
            inside.pop()
        elif bracket:
            inside.append((prefix, UNREAD))
        if not name:
            continue
        field = message.fields_by_name.get(name)
        if layers and nested and not field and message.fields and name not in HARMLESS:
            layers[-1].append(prefix + name)
        if opening and not nested and name in ("layer", "layers"):
            layers.append([])
        if opening:
            inside.append((f"{prefix}{name}." if nested else "", field.message_type or UNREAD if field else UNREAD))
    return [tuple(names) for names in layers]


def _modern(layer: V1LayerParameter) -> LayerParameter:
    """Convert a layer of the first format to the format of 2014."""
    number = V1LayerParameter.LayerType.Name(layer.type)
    modern = LayerParameter(name=layer.name, type=V1_TYPES.get(number, number), bottom=layer.bottom, top=layer.top)
    modern.include.extend(layer.include)
    modern.exclude.extend(layer.exclude)
    for field, value in layer.ListFields():
        if field.name.endswith("_param"):
            getattr(modern, field.name).CopyFrom(value)
    return modern


def _is_used(layer: LayerParameter) -> bool:
    """Return whether Caffe uses the layer in phase TEST, at level 0 and without stages."""
    if layer.include:
        return any(_rule_holds(rule) for rule in layer.include)
    return not any(_rule_holds(rule) for rule in layer.exclude)


def _rule_holds(rule: NetStateRule) -> bool:
    phase = not rule.HasField("phase") or rule.phase == TEST
    return phase and rule.min_level <= 0 <= (rule.max_level if rule.HasField("max_level") else 0) and not rule.stage


def _image(net: NetParameter, layers: Sequence[CaffeLayer], read: set[str]) -> NetImage:
    """Return the only image that a layer reads; raises UnsupportedError if it reads no image, or several."""
    images = {image.name: image for image in _images(net, layers) if image.name in read}
    if len(images) != 1:
        names = ", ".join(images) or "none"
        raise UnsupportedError(
            f"inputs: expected one image, got {names}; give the prototxt a layer of type Input, as deploy.prototxt has"
        )
    return next(iter(images.values()))


def _images(net: NetParameter, layers: Sequence[CaffeLayer]) -> Iterator[NetImage]:
    for position, name in enumerate(net.input):
        dims = net.input_dim[4 * position : 4 * position + 4]
        yield _image_of(name, net.input_shape[position].dim if position < len(net.input_shape) else dims)
    for layer in layers:
        parameters = layer.parameters
        if layer.type == "Input":
            shapes = [*parameters.input_param.shape] or [BlobShape()]
            for top, shape in zip(parameters.top, cycle(shapes), strict=False):
                yield _image_of(top, shape.dim)
        elif layer.is_data and parameters.top:
            side = parameters.transform_param.crop_size or None
            yield NetImage(parameters.top[0], None, side, side)


def _image_of(name: str, dims: Sequence[int]) -> NetImage:
    if not dims:
        return NetImage(name)
    if len(dims) != 4 or min(dims) < 1:
        raise SourceError(f"input {name!r}: expected a shape of number, channels, height and width, got {list(dims)}")
    return NetImage(name, *dims[1:])


def _transform(layers: Sequence[CaffeLayer]) -> TransformationParameter | None:
    """Return the preprocessing of the first layer that states one; raises UnsupportedError for unknown fields."""
    for layer in layers:
        doubtful = [
            name
            for name in layer.unknown
            if name.startswith("transform_param.") or name.endswith((".mean_file", ".scale"))
        ]
        if layer.is_data and doubtful:
            raise UnsupportedError(
                f"{layer}: the effect of {doubtful[0]} on an image is not known; write the layer "
                "as type Input, and give --preprocess"
            )
        if layer.parameters.HasField("transform_param"):
            return layer.parameters.transform_param
    return None
