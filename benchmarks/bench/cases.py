"""What is measured: the images and strides of each network, in a quick and in a full run."""

from dataclasses import dataclass

from bench.contenders import BASELINE, Contender
from bench.networks import DIVISORS, NETWORKS
from bench.ours import AUTO, MODES, REFERENCE, InProcess, OverGrpc
from bench.windows import Sample

SIDES = (384, 1024, 4096)
"""Heights and widths of the images in pixels."""
MAIN_PAIRS = (AUTO, REFERENCE)
"""Providers and precisions of the main contenders."""


@dataclass(frozen=True)
class Group:
    """Contenders that are measured together, beside ONNX Runtime, with which all of them are compared."""

    name: str
    modes: tuple[str, ...]
    """Modes of this project."""
    is_further: bool = False
    """Whether this project runs with all providers and precisions but `MAIN_PAIRS`, and over gRPC with these.

    Otherwise it runs with `MAIN_PAIRS`, and over gRPC in mode dense with "auto".
    """
    has_grpc: bool = True
    has_others: bool = False
    """Whether the other ways to score an image are measured."""
    is_whole: bool = False
    """Whether whole images are scored, however long that takes."""


MAIN = Group("main", MODES, has_others=True)
BRIEF = Group("brief", ("dense",), has_grpc=False, is_whole=True)
DENSE, WINDOWS = Group("dense", MODES[:1], has_others=True), Group("windows", MODES[1:])
"""The contenders of `MAIN` in two groups, which need less memory each."""
FURTHER = Group("further dense", MODES[:1], is_further=True), Group("further windows", MODES[1:], is_further=True)
GROUPS = {group.name: group for group in (MAIN, BRIEF, DENSE, WINDOWS, *FURTHER)}


@dataclass(frozen=True)
class Case:
    """A network, the side of a square image in pixels, and the number by which the native stride is divided."""

    network: str
    side: int
    divisor: int = 1
    group: Group = MAIN

    @property
    def stride(self) -> int:
        """Pixels between windows."""
        return NETWORKS[self.network].stride // self.divisor


@dataclass(frozen=True)
class Scope:
    """How much a run measures."""

    cases: tuple[Case, ...]
    is_full: bool
    """Whether the larger samples of windows are timed."""
    seconds: float
    """Predicted seconds of one run up to which a contender scores the whole image; otherwise, only its middle."""
    rounds: int = 3
    """Number of measurements of each contender."""
    only: str = ""
    """Text in the names of the contenders that are measured, besides ONNX Runtime."""

    def includes(self, case: Case, contender: Contender) -> bool:
        """Return whether a contender is measured in a case."""
        if contender is BASELINE:
            return True
        if self.only not in contender.name:
            return False
        group = case.group
        match contender:
            case InProcess(mode, pair):
                return mode in group.modes and (pair in MAIN_PAIRS) != group.is_further
            case OverGrpc(mode, pair):
                is_further = (mode, pair) != ("dense", AUTO)
                return group.has_grpc and mode in group.modes and pair in MAIN_PAIRS and is_further == group.is_further
        return group.has_others

    def sample(self, network: str) -> Sample:
        """Return the windows that stand for an image when crops of a network are timed."""
        recipe = NETWORKS[network]
        return recipe.full if self.is_full else recipe.quick


QUICK = Scope(
    (
        Case("digits", 384),
        Case("digits", 1024),
        Case("digits", 4096),
        Case("digits", 1024, 2),
        Case("digits", 1024, 4),
        Case("efficientnet-lite0", 384),
        Case("efficientnet-lite0", 1024),
        Case("resnet50", 384),
        Case("resnet50", 1024),
        Case("vgg16", 384),
        Case("vgg16", 1024),
        Case("vgg16", 2048, group=BRIEF),
    ),
    is_full=False,
    seconds=4,
)
"""Less than 10 minutes on two cores."""
FULL = Scope(
    tuple(
        Case(network, side, divisor, group)
        for network in NETWORKS
        for divisor in DIVISORS
        for group in (DENSE, WINDOWS, *(FURTHER if divisor == 1 else ()))
        for side in (*SIDES[:2], *((2048,) if (network, divisor) == ("vgg16", 1) else ()), SIDES[2])
    ),
    is_full=True,
    seconds=10,
)
"""Some hours on two cores."""
