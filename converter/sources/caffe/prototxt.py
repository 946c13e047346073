"""Prototxts: the layers that a network has when it is used, and its image.

What belongs to training alone is left out: layers of phase TRAIN, losses, accuracies. A data layer that is left stands
for the network's image. Fields that Caffe's many versions have besides are tolerated; but what caffe.proto does not
know inside a layer may change its result, and is kept in `Layer.unknown` to be refused if the layer is built.
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
"""Networks of hundreds of layers have a few hundred kB."""
MAX_LINE = 1 << 14
"""Characters. The parser copies the line into a message whenever it tries what a value may be."""
TOKEN = re.compile(
    r"""
    [#][^\n]*+ | "(?:[^"\\\n]|\\.)*+" | '(?:[^'\\\n]|\\.)*+'    # comments and strings, to be passed over
    | (\w++)(?=\s*+[:{<])\s*+:?\s*+([{<]?)                      # a field's name, and whether it is a message
    | \w++
    | ([{<}>])
    """,
    re.VERBOSE,
)
UNREAD = V0LayerParameter.DESCRIPTOR
"""Stands for every message of which nothing is read."""
HARMLESS = frozenset(
    (
        "accuracy_param", "bias_filler", "blob_share_mode", "blobs_lr", "engine", "filler", "force_color",
        "force_gray", "force_nd_im2col", "loss_param", "loss_weight", "mirror", "moving_average_fraction", "param",
        "propagate_down", "sigmoid_param", "stable_prod_grad", "tanh_param", "weight_decay", "weight_filler",
    )
)  # fmt: skip
"""Fields that guide training, or choose between implementations of the same."""
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
"""Today's names of types that used to be numbers; the others keep the name that they had."""
ACTIVATIONS = {"SigmoidCrossEntropyLoss": "sigmoid", "SoftmaxWithLoss": "softmax"}
"""What losses make of the scores that they are given."""


@dataclass(frozen=True)
class Layer:
    """One layer, and the names of its fields that caffe.proto lacks."""

    parameters: LayerParameter
    unknown: tuple[str, ...]

    @property
    def type(self) -> str:
        """What it computes, in today's names."""
        return str(self.parameters.type)

    def __str__(self) -> str:
        return f"layer {self.parameters.name!r:.100} ({self.type:.40})"

    @property
    def is_data(self) -> bool:
        """Whether it reads images, or what else a network is fed with, from somewhere."""
        return self.type.upper().endswith("DATA")

    @property
    def for_training(self) -> bool:
        """Whether it only says how well the network does."""
        return self.type.upper().endswith(("LOSS", "ACCURACY"))


@dataclass(frozen=True)
class Image:
    """The network's input: its blob's name, and (channels, height, width) as far as the prototxt says."""

    name: str
    channels: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Net:
    """A network in use; `transform` is what a data layer does to pixels, `activation` what its loss does to scores."""

    name: str
    image: Image
    layers: tuple[Layer, ...]
    transform: TransformationParameter | None
    activation: str


def read_prototxt(path: Path) -> Net:
    """Read a prototxt of either format; raises ConversionError."""
    net, unknown = _parse(path)
    layers = [*map(_modern, net.layers), *net.layer]
    every = [Layer(layer, names) for layer, names in zip(layers, unknown, strict=True)]
    used = [layer for layer in every if _is_used(layer.parameters)]
    built = [layer for layer in used if layer.type != "Input" and not layer.is_data and not layer.for_training]
    activations = [ACTIVATIONS[layer.type] for layer in used if layer.type in ACTIVATIONS]
    return Net(
        name=net.name or path.stem,
        image=_image(net, used, {blob for layer in built for blob in layer.parameters.bottom}),
        layers=tuple(built),
        transform=_transform([*used, *every]),
        activation=activations[-1] if activations else "softmax",
    )


def _parse(path: Path) -> tuple[NetParameter, list[tuple[str, ...]]]:
    """The message, and for each of its layers the fields that are not in it."""
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
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # a Windows path's backslashes
            text_format.Parse(text, net, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        raise SourceError(f"{path}: not a valid prototxt: {one_line(error)}") from None
    if any(layer.HasField("layer") for layer in net.layers) or (net.layers and net.layer):
        raise SourceError(
            f"{path}: layers of a Caffe before 2014, or of two formats; run Caffe's upgrade_net_proto_text"
        )
    unknown = _unknown_fields(text)
    if len(unknown) != len(net.layers) + len(net.layer):
        raise SourceError(
            f"{path}: expected every layer written as layer {{ ... }}; run Caffe's upgrade_net_proto_text"
        )
    return net, unknown


def _unknown_fields(text: str) -> list[tuple[str, ...]]:
    """For each layer of a valid prototxt, the dotted names of the fields that caffe.proto lacks."""
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
    """A layer as it has been written since 2014."""
    number = V1LayerParameter.LayerType.Name(layer.type)
    modern = LayerParameter(name=layer.name, type=V1_TYPES.get(number, number), bottom=layer.bottom, top=layer.top)
    modern.include.extend(layer.include)
    modern.exclude.extend(layer.exclude)
    for field, value in layer.ListFields():
        if field.name.endswith("_param"):
            getattr(modern, field.name).CopyFrom(value)
    return modern


def _is_used(layer: LayerParameter) -> bool:
    """Whether the layer is there in the phase TEST, at level 0 and without stages, as Caffe decides it."""
    if layer.include:
        return any(_holds(rule) for rule in layer.include)
    return not any(_holds(rule) for rule in layer.exclude)


def _holds(rule: NetStateRule) -> bool:
    phase = not rule.HasField("phase") or rule.phase == TEST
    return phase and rule.min_level <= 0 <= (rule.max_level if rule.HasField("max_level") else 0) and not rule.stage


def _image(net: NetParameter, layers: Sequence[Layer], read: set[str]) -> Image:
    """The only image that a layer reads."""
    images = {image.name: image for image in _images(net, layers) if image.name in read}
    if len(images) != 1:
        names = ", ".join(images) or "none"
        raise UnsupportedError(
            f"inputs: expected one image, got {names}; give the prototxt a layer of type Input, as deploy.prototxt has"
        )
    return next(iter(images.values()))


def _images(net: NetParameter, layers: Sequence[Layer]) -> Iterator[Image]:
    for position, name in enumerate(net.input):
        dims = net.input_dim[4 * position : 4 * position + 4]
        yield _sized(name, net.input_shape[position].dim if position < len(net.input_shape) else dims)
    for layer in layers:
        parameters = layer.parameters
        if layer.type == "Input":
            shapes = [*parameters.input_param.shape] or [BlobShape()]
            for top, shape in zip(parameters.top, cycle(shapes), strict=False):
                yield _sized(top, shape.dim)
        elif layer.is_data and parameters.top:
            side = parameters.transform_param.crop_size or None
            yield Image(parameters.top[0], None, side, side)


def _sized(name: str, dims: Sequence[int]) -> Image:
    if not dims:
        return Image(name)
    if len(dims) != 4 or min(dims) < 1:
        raise SourceError(f"input {name!r}: expected a shape of number, channels, height and width, got {list(dims)}")
    return Image(name, *dims[1:])


def _transform(layers: Sequence[Layer]) -> TransformationParameter | None:
    """What the first layer that says so does to pixels."""
    for layer in layers:
        doubtful = [
            name
            for name in layer.unknown
            if name.startswith("transform_param.") or name.endswith((".mean_file", ".scale"))
        ]
        if layer.is_data and doubtful:
            raise UnsupportedError(
                f"{layer}: it is not known what {doubtful[0]} does to an image; write the layer "
                "as type Input, and say --preprocess"
            )
        if layer.parameters.HasField("transform_param"):
            return layer.parameters.transform_param
    return None
