"""What is measured: the images and strides of each network, in a quick and in a full run."""

from dataclasses import dataclass

from bench.contenders import BASELINE, Contender
from bench.networks import DIVISORS, NETWORKS
from bench.ours import AUTO, REFERENCE, InProcess, OverGrpc
from bench.windows import Sample

SIDES = (384, 1024, 4096)
"""Heights and widths of the images in pixels."""
MAIN_PAIRS = (AUTO, REFERENCE)
"""Providers and precisions of a quick run."""


@dataclass(frozen=True)
class Case:
    """A network, the side of a square image in pixels, and the number by which the native stride is divided."""

    network: str
    side: int
    divisor: int = 1
    brief: bool = False
    """Whether only this project's dense mode, in this process, is compared with ONNX Runtime, on the whole image."""

    @property
    def place(self) -> tuple[str, int, int]:
        """The network, the side and the stride: what distinguishes the cases of a run."""
        return self.network, self.side, self.stride

    @property
    def stride(self) -> int:
        """Pixels between windows."""
        return NETWORKS[self.network].stride // self.divisor


@dataclass(frozen=True)
class Scope:
    """How much a run measures."""

    cases: tuple[Case, ...]
    is_full: bool
    """Whether the larger samples of windows are timed, and all of this project's contenders are measured.

    Otherwise, the providers and precisions are `MAIN_PAIRS`, and over gRPC only mode dense with "auto" is measured. A
    full run measures `MAIN_PAIRS` over gRPC.
    """
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
        if self.only not in contender.name or (case.brief and not isinstance(contender, InProcess)):
            return False
        match contender:
            case InProcess(mode, pair):
                return (self.is_full or pair in MAIN_PAIRS) and (mode == "dense" or not case.brief)
            case OverGrpc(mode, pair):
                return pair in MAIN_PAIRS if self.is_full else (mode, pair) == ("dense", AUTO)
        return True

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
        Case("vgg16", 2048, brief=True),
    ),
    is_full=False,
    seconds=4,
)
"""Less than 10 minutes on two cores."""
FULL = Scope(
    tuple(
        Case(network, side, divisor)
        for network in NETWORKS
        for divisor in DIVISORS
        for side in (*SIDES[:2], *((2048,) if (network, divisor) == ("vgg16", 1) else ()), SIDES[2])
    ),
    is_full=True,
    seconds=10,
)
"""Some hours on two cores."""
