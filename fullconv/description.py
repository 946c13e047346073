"""The description of a model: geometry, classes, certificate and limits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fullconv.common.probabilities import PROBABILITIES, RAW, SIGMOID, SOFTMAX
from fullconv.grid import FurtherOutput

Pair = tuple[int, int]
"""Vertical, then horizontal."""

OUTPUT_KINDS = (SOFTMAX, SIGMOID, PROBABILITIES, RAW)
"""Every value of `ModelOutput.kind`."""


@dataclass(frozen=True)
class Parity:
    """The agreement of dense scores with those of crops, as the converter has measured it. It is not a bound."""

    exact: bool
    """Whether dense equals crops up to rounding; False for scores that were computed in bf16 or fp16."""
    max_abs_diff: float
    """Largest absolute difference of a score."""
    windows: int
    """Number of windows compared. 0: the agreement is not known."""
    top_class_agreement: float | None
    """Share of these windows, 0 to 1, with the same top class. None: not known, or the scores name no top class."""
    agreement_interval: tuple[float, float] | None
    """Limits of the 95 % confidence interval of this share."""


@dataclass(frozen=True)
class PrecisionDifference:
    """How far scores differ from those of ONNX Runtime on the CPU in fp32, as measured on images of noise."""

    windows: int
    """Number of windows compared."""
    max_abs: float
    """Largest absolute difference of a score."""
    relative_l2: float
    """Euclidean norm of the differences, divided by the Euclidean norm of the scores in fp32."""
    top_class_agreement: float | None
    """Share of these windows, 0 to 1, with the same top class. None: the scores name no top class."""


@dataclass(frozen=True)
class ModelInput:
    """The pixels that the network takes."""

    dtype: str
    """Element type of the values that it takes: "uint8", pixels from 0 to 255; "uint16" or "float32", an image's own
    values."""
    channels: int
    order: str
    """"RGB" or "GRAY"; empty for another number of bands."""


@dataclass(frozen=True)
class ModelOutput:
    """The kind and the number of the scores."""

    kind: str
    """"logits-softmax" or "logits-sigmoid" (the named function turns them into probabilities), "probabilities" or
    "raw"."""
    classes: int
    """Number of classes."""
    further: tuple[FurtherOutput, ...] = ()
    """The further outputs, whose values answers with a grid have too."""


@dataclass(frozen=True)
class ModelLimits:
    """The largest images and messages that are accepted."""

    image_pixels: int
    """Pixels of an image that is sent in one message, or that can only be decoded as a whole."""
    message_bytes: int
    """Bytes of a message to or from the server."""
    large_image_pixels: int
    """Pixels of an image that is sent in parts."""


@dataclass(frozen=True)
class ModelDescription:
    """A model: its geometry in pixels, its classes, and the figures of its certificate."""

    name: str
    """Name of the model."""
    version: str
    """Version of the model."""
    labels: tuple[str, ...]
    """One label for each class; empty if the model has none."""
    window: Pair
    """Height and width of the windows that the classifier was trained on."""
    stride: Pair
    """The native stride."""
    strides: tuple[Pair, ...]
    """Strides for which the model has a file, the native stride first."""
    modes: tuple[str, ...]
    """The modes in which the model can run, among "dense", "shared" and "crops"."""
    precision: str
    """"fp32", "fp16" or "int8"."""
    weights_sha256: str
    """SHA-256 of the weights in hexadecimal."""
    input: ModelInput
    """The pixels that the network takes."""
    output: ModelOutput
    """The kind and the number of the scores."""
    parity: Mapping[Pair, Parity]
    """The agreement of dense scores with those of crops, for each of `strides`."""
    limits: ModelLimits
    """The largest images and messages that are accepted."""
    microns_per_pixel: float | None = None
    """Side of a pixel, in micrometres, of the images that the network was trained on. None: not known."""
    colours: tuple[str, ...] = ()
    """The colour of each class in pictures, as "#rrggbb", or an empty text; empty if no class has one."""
    card: str = ""
    """The model's card, in Markdown; empty if it has none."""

    def document(self) -> dict[str, Any]:
        """Return what `fullconv-score --describe --json` prints."""
        document = {"model": self.name, **asdict(self)}
        del document["name"], document["limits"]
        return document | {"parity": [{"stride": stride, **asdict(seen)} for stride, seen in self.parity.items()]}
