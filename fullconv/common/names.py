"""Names of the values that options take, and their numbers in protos/scoring.proto.

The names are the same on the command line, in Python and in the parameters of the Open Inference Protocol.
"""

from collections.abc import Mapping
from typing import Literal, TypeVar

from fullconv.protos import scoring_pb2

ModeName = Literal["auto", "dense", "shared", "crops", "exact"]
BorderName = Literal["lattice", "anchor"]
AverageName = Literal["scores", "probabilities"]
GridName = Literal["float32", "float16", "top", "argmax"]
GridAsName = Literal["scores", "probability", "float16", "top", "argmax"]
CoordinatesName = Literal["pixels", "map"]
PriorityName = Literal["low", "normal", "high"]
ProviderName = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]

PRECISIONS: Mapping[str, tuple[Literal["fp32", "bf16", "fp16"], ...]] = {
    "cpu": ("fp32",),
    "openvino": ("fp32", "bf16"),
    "cuda": ("fp32",),
    "tensorrt": ("fp32", "bf16", "fp16"),
}
"""The precisions of each provider, the slowest first."""
MODES: Mapping[str, scoring_pb2.Mode] = {
    "auto": scoring_pb2.MODE_AUTO,
    "dense": scoring_pb2.MODE_DENSE,
    "shared": scoring_pb2.MODE_SHARED,
    "crops": scoring_pb2.MODE_CROPS,
    "exact": scoring_pb2.MODE_EXACT,
}
BORDERS: Mapping[str, scoring_pb2.Border] = {
    "lattice": scoring_pb2.BORDER_LATTICE,
    "anchor": scoring_pb2.BORDER_ANCHOR,
}
AVERAGES: Mapping[str, scoring_pb2.AverageOf] = {
    "scores": scoring_pb2.AVERAGE_OF_SCORES,
    "probabilities": scoring_pb2.AVERAGE_OF_PROBABILITIES,
}
GRIDS: Mapping[str, scoring_pb2.GridAs] = {
    "float32": scoring_pb2.GRID_AS_FLOAT32,
    "float16": scoring_pb2.GRID_AS_FLOAT16,
    "top": scoring_pb2.GRID_AS_TOP,
    "argmax": scoring_pb2.GRID_AS_ARGMAX,
}
PRIORITIES: Mapping[str, scoring_pb2.Priority] = {
    "low": scoring_pb2.PRIORITY_LOW,
    "normal": scoring_pb2.PRIORITY_NORMAL,
    "high": scoring_pb2.PRIORITY_HIGH,
}

DEFAULT_TOP = 5
"""Number of classes with the highest averages that an answer names, and number of classes of each window in a grid of
the highest scores, where a request states neither."""

Number = TypeVar("Number", bound=int)


def name_of(names: Mapping[str, Number], number: Number) -> str:
    """Return the name of a number; raises KeyError for a number without a name."""
    for name, value in names.items():
        if value == number:
            return name
    raise KeyError(number)


def has_precision(provider: str, precision: str) -> bool:
    """Return whether a provider computes in a precision; "auto" stands for any."""
    return "auto" in (provider, precision) or precision in PRECISIONS[provider]
