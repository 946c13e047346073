"""What is measured: the images and strides of each network, in a quick and in a full run."""

from dataclasses import dataclass

from bench.contenders import BASELINE, Contender
from bench.networks import DIVISORS, NETWORKS
from bench.ours import AUTO, MODES, REFERENCE, Ours, OverGrpc, Pair
from bench.windows import Sample

SIDES = (384, 1024, 4096)
"""Heights and widths of the images in pixels."""
WHOLE = 2048
"""Side of a further image, for VGG-16 only. Mode dense scores the whole of it, however long that takes."""
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
    is_brief: bool = False
    """Whether modes other than dense run only with "auto"."""
    has_others: bool = False
    """Whether the other ways to score an image are measured."""

    def includes(self, mode: str, pair: Pair, *, over_grpc: bool) -> bool:
        """Return whether a mode runs by a provider in a precision, in-process or over gRPC."""
        if mode not in self.modes:
            return False
        is_first = (mode, pair) == ("dense", AUTO)
        if over_grpc:
            return is_first != self.is_further and pair in MAIN_PAIRS
        if self.is_further:
            return pair not in MAIN_PAIRS
        return pair == AUTO or (pair == REFERENCE and (mode == "dense" or not self.is_brief))


BRIEF = Group("brief", MODES, is_brief=True, has_others=True)
DENSE, WINDOWS = Group("dense", MODES[:1], has_others=True), Group("windows", MODES[1:])
"""The contenders of a full run in groups that need less memory each; `FURTHER` has the rest of them."""
FURTHER = Group("further dense", MODES[:1], is_further=True), Group("further windows", MODES[1:], is_further=True)
GROUPS = {group.name: group for group in (BRIEF, DENSE, WINDOWS, *FURTHER)}


@dataclass(frozen=True)
class Case:
    """A network, the side of a square image in pixels, and the number by which the native stride is divided."""

    network: str
    side: int
    divisor: int = 1
    group: Group = BRIEF

    @property
    def stride(self) -> int:
        """Pixels between windows."""
        return NETWORKS[self.network].stride // self.divisor

    @property
    def is_whole(self) -> bool:
        """Whether the whole image is scored, however long that takes; otherwise, perhaps only its middle."""
        return self.side == WHOLE and self.group.modes == ("dense",)


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
        if isinstance(contender, Ours):
            return case.group.includes(contender.mode, contender.pair, over_grpc=isinstance(contender, OverGrpc))
        return case.group.has_others

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
    ),
    is_full=False,
    seconds=4,
)
"""Less than 10 minutes on two cores."""
FULL = Scope(
    tuple(
        Case(network, side, divisor, group)
        for divisor in DIVISORS
        for network in NETWORKS
        for group in (DENSE, WINDOWS, *(FURTHER if divisor == 1 else ()))
        for side in (*SIDES[:2], *((WHOLE,) if (network, divisor) == ("vgg16", 1) else ()), SIDES[2])
    ),
    is_full=True,
    seconds=10,
)
"""Some hours on two cores. An interrupted run has the native strides first."""
