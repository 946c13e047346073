"""What is measured: the images and strides of each network, in a quick and in a full run."""

from dataclasses import dataclass

from bench.contenders import BASELINE, Contender
from bench.networks import DIVISORS, NETWORKS
from bench.ours import InProcess

SIDES = (384, 1024, 4096)
"""Heights and widths of the images in pixels."""


@dataclass(frozen=True)
class Case:
    """A network, the side of a square image in pixels, and the number by which the native stride is divided."""

    network: str
    side: int
    divisor: int = 1
    brief: bool = False
    """Whether only this project's dense mode, in this process, is compared with ONNX Runtime."""

    @property
    def stride(self) -> int:
        """Pixels between windows."""
        return NETWORKS[self.network].stride // self.divisor

    def includes(self, contender: Contender) -> bool:
        """Return whether a contender is measured."""
        return (
            not self.brief or contender is BASELINE or (isinstance(contender, InProcess) and contender.mode == "dense")
        )


@dataclass(frozen=True)
class Scope:
    """How much a run measures."""

    cases: tuple[Case, ...]
    rounds: int
    """Number of measurements of each contender."""
    is_full: bool
    """Whether the larger sample of windows is timed."""
    multiply_adds: float
    """Largest cost of an image; a contender whose cost is higher scores the middle of the image."""


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
    rounds=3,
    is_full=False,
    multiply_adds=2e12,
)
"""Less than 10 minutes on two cores."""
FULL = Scope(
    tuple(
        Case(network, side, divisor)
        for network in NETWORKS
        for divisor in DIVISORS
        for side in (*SIDES[:2], *((2048,) if (network, divisor) == ("vgg16", 1) else ()), SIDES[2])
    ),
    rounds=5,
    is_full=True,
    multiply_adds=8e12,
)
"""Some hours on two cores."""
