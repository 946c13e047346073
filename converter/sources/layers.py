"""The layers of an architecture file, as data; architecture.py describes the file.

A layer with tensors has a key, its name in the state_dict: its tensors are key.weight, key.bias and so on. A layer that
is optional is left out if the checkpoint does not have its tensors.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0, le=1 << 20)]
NonNegative = Annotated[int, Field(ge=0, le=1 << 20)]
Parameter = int | float | str | bool
"""The value of a parameter of a block."""
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _check_odd(size: int) -> int:
    if not size % 2:
        raise ValueError("expected an odd size, with the same number of neighbours on both sides")
    return size


class Table(BaseModel):
    """A table of the file, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WithTensors(Table):
    """A layer with tensors in the checkpoint."""

    tensors: ClassVar[tuple[str, ...]] = ("weight", "bias")
    key: str
    optional: bool = False

    @property
    def tensor_keys(self) -> tuple[str, ...]:
        """The keys of its tensors."""
        return tuple(f"{self.key}.{tensor}" for tensor in self.tensors)


class WithBias(WithTensors):
    """A layer with weights, and with a bias; "any" stands for a bias if the checkpoint has one."""

    out: Positive | None = None
    bias: bool | Literal["any"] = True

    @property
    def tensor_keys(self) -> tuple[str, ...]:
        """The keys of its tensors."""
        return super().tensor_keys[: 1 + bool(self.bias)]


class Conv(WithBias):
    """A square convolution in `groups` groups; without `out` it has as many outputs as the checkpoint.

    With `groups` "any", the shape of the weights determines the number of groups. Padding "same" gives ⌈size / stride⌉
    cells, as in TensorFlow.
    """

    op: Literal["conv"]
    kernel: Positive
    stride: Positive = 1
    pad: NonNegative | Literal["same"] = 0
    groups: Positive | Literal["any"] = 1


class BatchNorm(WithTensors):
    """Batch normalisation with its running statistics."""

    tensors: ClassVar[tuple[str, ...]] = ("weight", "bias", "running_mean", "running_var")
    op: Literal["batchnorm"]
    eps: PositiveNumber = 1e-5


class Activation(Table):
    """A function of each number, as PyTorch defines it."""

    op: Literal["relu", "relu6", "elu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh"]


class LeakyRelu(Table):
    """max(x, 0) + slope · min(x, 0)."""

    op: Literal["leakyrelu"]
    slope: PositiveNumber = 0.01


class PRelu(WithTensors):
    """max(x, 0) + weight · min(x, 0), with one weight, or one for each channel."""

    tensors: ClassVar[tuple[str, ...]] = ("weight",)
    op: Literal["prelu"]


class Dropout(Table):
    """Dropout, which has no effect at inference."""

    op: Literal["dropout"]


class Lrn(Table):
    """x / (bias + alpha · s)^beta, where s is the mean of x² over the neighbours of x; beyond the edge x is 0.

    The neighbours are `size` channels at one position, or size × size positions of one channel.
    """

    op: Literal["lrn"]
    size: Annotated[Positive, AfterValidator(_check_odd)]
    alpha: PositiveNumber = 1e-4
    beta: PositiveNumber = 0.75
    bias: PositiveNumber = 1.0
    region: Literal["channels", "map"] = "channels"


class _Pool(Table):
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


class GlobalAvgPool(Table):
    """The average of each channel over the whole map, as a map of 1×1."""

    op: Literal["globalavgpool"]


class GlobalMaxPool(Table):
    """The maximum of each channel over the whole map, as a map of 1×1."""

    op: Literal["globalmaxpool"]


class AdaptiveAvgPool(Table):
    """Averages over a size × size partition of the map; only sizes that divide the map are fully convolutional."""

    op: Literal["adaptiveavgpool"]
    size: Positive


class Flatten(Table):
    """A map (channels, height, width) as one vector, in that order."""

    op: Literal["flatten"]


class Linear(WithBias):
    """A fully connected layer; without `out` it has as many outputs as the checkpoint."""

    op: Literal["linear"]


Branches = Annotated[tuple[Annotated[tuple["Layer", ...], Field(strict=False)], ...], Field(strict=False, min_length=2)]


class Add(Table):
    """The sum of branches, each of which is a list of layers; an empty list stands for the input of the branches.

    With `if_same_shape`, the first branch alone is the output if the branches have different shapes.
    """

    op: Literal["add"]
    branches: Branches
    if_same_shape: bool = False


class Concat(Table):
    """The channels of all branches, one branch after the other."""

    op: Literal["concat"]
    branches: Branches


class Blocks(Table):
    """Copies of a block, whose keys begin with key.0, key.1 and so on; "{}" in `key` stands for the number.

    Without `count` there are as many as in the checkpoint. `parameters` replace those of the block, `first` those of
    the first copy.
    """

    op: Literal["blocks"]
    block: str
    key: str
    start: NonNegative = 0
    count: Positive | None = None
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    first: dict[str, Parameter] = Field(default_factory=dict)


Layer = Annotated[
    Conv
    | BatchNorm
    | Activation
    | LeakyRelu
    | PRelu
    | Dropout
    | Lrn
    | MaxPool
    | AvgPool
    | GlobalAvgPool
    | GlobalMaxPool
    | AdaptiveAvgPool
    | Flatten
    | Linear
    | Add
    | Concat
    | Blocks,
    Field(discriminator="op"),
]
for _model in (Add, Concat):
    _model.model_rebuild()


def tensor_keys(layers: Sequence[Layer]) -> Iterator[str]:
    """Yield the keys of the tensors of layers."""
    for layer in layers:
        match layer:
            case WithTensors():
                yield from layer.tensor_keys
            case Add() | Concat():
                for branch in layer.branches:
                    yield from tensor_keys(branch)
