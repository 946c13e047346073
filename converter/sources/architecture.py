"""Architectures in TOML files, which state the facts that a state_dict does not hold.

    name = "digits"
    channels = 1
    window = [70, 70]         # height, width in pixels
    preprocess = "unit"       # a preset's name, or a table of what --preprocess takes from a JSON file
    activation = "softmax"    # what turns the outputs into probabilities
    labels = ["0", "1"]       # optional
    layers = [
      { op = "conv", key = "features.0", out = 16, kernel = 3, stride = 1, pad = 0 },
      { op = "linear", key = "classifier.4" },    # without `out`: as many outputs as the checkpoint has
    ]

`key` is the layer's name in the state_dict: its tensors are key.weight, key.bias and so on.
"""

import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from converter.errors import SourceError
from converter.messages import first_problem
from converter.preprocessing import Preprocessing

Positive = Annotated[int, Field(gt=0, le=1 << 20)]
NonNegative = Annotated[int, Field(ge=0, le=1 << 20)]


def _check_odd(size: int) -> int:
    if not size % 2:
        raise ValueError("expected an odd size, with the same number of neighbours on both sides")
    return size


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _WithTensors(_Table):
    tensors: ClassVar[tuple[str, ...]] = ("weight", "bias")
    key: str

    @property
    def tensor_keys(self) -> tuple[str, ...]:
        return tuple(f"{self.key}.{tensor}" for tensor in self.tensors)


class _WithBias(_WithTensors):
    out: Positive | None = None
    bias: bool = True

    @property
    def tensor_keys(self) -> tuple[str, ...]:
        return super().tensor_keys[: 1 + self.bias]


class Conv(_WithBias):
    """A square convolution in `groups` groups; without `out` it has as many outputs as the checkpoint."""

    op: Literal["conv"]
    kernel: Positive
    stride: Positive = 1
    pad: NonNegative = 0
    groups: Positive = 1


class BatchNorm(_WithTensors):
    """Batch normalisation with its running statistics."""

    tensors: ClassVar[tuple[str, ...]] = ("weight", "bias", "running_mean", "running_var")
    op: Literal["batchnorm"]


class Relu(_Table):
    """max(x, 0)."""

    op: Literal["relu"]


class Lrn(_Table):
    """x / (bias + alpha · s)^beta, where s is the mean of x² over the neighbours of x; beyond the edge x is 0.

    The neighbours are `size` channels at one position, or size × size positions of one channel.
    """

    op: Literal["lrn"]
    size: Annotated[Positive, AfterValidator(_check_odd)]
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.75
    bias: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    region: Literal["channels", "map"] = "channels"


class _Pool(_Table):
    kernel: Positive
    stride: Positive
    ceil: bool = False


class MaxPool(_Pool):
    """The maximum over a square; `ceil` adds windows that begin before the far edge and reach over it."""

    op: Literal["maxpool"]
    pad: NonNegative = 0


class AvgPool(_Pool):
    """The average over a square; `ceil` adds windows that reach over the far edge and average the elements inside."""

    op: Literal["avgpool"]


class GlobalAvgPool(_Table):
    """The average of each channel over the whole map, as a map of 1×1."""

    op: Literal["globalavgpool"]


class AdaptiveAvgPool(_Table):
    """Averages over a size × size partition of the map; only sizes that divide the map are fully convolutional."""

    op: Literal["adaptiveavgpool"]
    size: Positive


class Flatten(_Table):
    """A map (channels, height, width) as one vector, in that order."""

    op: Literal["flatten"]


class Linear(_WithBias):
    """A fully connected layer; without `out` it has as many outputs as the checkpoint."""

    op: Literal["linear"]


Layer = Annotated[
    Conv | BatchNorm | Relu | Lrn | MaxPool | AvgPool | GlobalAvgPool | AdaptiveAvgPool | Flatten | Linear,
    Field(discriminator="op"),
]


class Architecture(_Table):
    """A sequential network, its window, its preprocessing, and the meaning of its scores."""

    name: str
    channels: Positive
    window: Annotated[tuple[Positive, Positive], Field(strict=False)]
    preprocess: Preprocessing | str
    activation: Literal["softmax", "sigmoid", "none"]
    labels: Annotated[tuple[str, ...], Field(strict=False)] = ()
    layers: Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)]

    def keys(self) -> Iterator[str]:
        """Yield the key of every tensor that a checkpoint of this architecture has."""
        for layer in self.layers:
            if isinstance(layer, _WithTensors):
                yield from layer.tensor_keys


def load_architecture(choice: str) -> Architecture:
    """Return a shipped architecture by its name, or the architecture in a TOML file; raises SourceError."""
    shipped = {path.stem: path for path in _shipped()}
    if choice in shipped:
        return _parse(shipped[choice].read_bytes(), choice)
    try:
        return _parse(Path(choice).read_bytes(), choice)
    except OSError as error:
        names = ", ".join(sorted(shipped))
        raise SourceError(f"arch: expected a TOML file or one of {names}, got {choice!r}: {error.strerror}") from None


def recognise(keys: set[str]) -> Architecture:
    """Return the shipped architecture that shares most keys with these; raises SourceError if less than half agree."""
    known = [load_architecture(path.stem) for path in _shipped()]
    nearest = max(known, key=lambda architecture: _likeness(set(architecture.keys()), keys))
    if _likeness(set(nearest.keys()), keys) <= 0.5:
        names = ", ".join(architecture.name for architecture in known)
        raise SourceError(
            f"arch: the checkpoint's {len(keys)} tensors match no known architecture ({names}); list the network's "
            "layers with --arch FILE.toml; or, if PyTorch is installed, name its module, --arch torchvision:resnet50, "
            "or the function that makes it, --arch mypackage.nets:build; or export it to ONNX and convert the result"
        )
    return nearest


def _likeness(expected: set[str], got: set[str]) -> float:
    return len(expected & got) / len(expected | got)


def _shipped() -> list[Path]:
    folder = resources.files("converter") / "architectures"
    return sorted(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _parse(text: bytes, origin: str) -> Architecture:
    try:
        return Architecture.model_validate(tomllib.loads(text.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"arch: {origin}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise SourceError(f"arch: {origin}: {first_problem(error)}") from None
