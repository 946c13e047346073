"""What is measured: the images and strides of each network, in a quick and in a full run."""

from dataclasses import dataclass
from typing import Literal

from bench.contenders import BASELINE, Contender
from bench.networks import DIVISORS, NETWORKS
from bench.ours import AUTO, REFERENCE, InProcess, OverGrpc
from bench.windows import Sample
from service.limits import Tuning

SIDES = (384, 1024, 4096)
"""Heights and widths of the images in pixels."""
MAIN_PAIRS = (AUTO, REFERENCE)
"""Providers and precisions of the main contenders."""
Group = Literal["main", "brief", "further"]
"""Contenders that are measured together, beside ONNX Runtime: all at once would need too much memory.

"main" has this project with `MAIN_PAIRS`, in mode dense with "auto" also over gRPC, and all other ways to score an
image. "brief" has the main contenders in-process in mode dense, on the whole image. "further" has this project with all
other providers and precisions, and in all modes with `MAIN_PAIRS` over gRPC.
"""


@dataclass(frozen=True)
class Case:
    """A network, the side of a square image in pixels, and the number by which the native stride is divided."""

    network: str
    side: int
    divisor: int = 1
    group: Group = "main"

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
    tile_mib: int | None = None
    """Memory of this project's tiles in MiB, for each process and network. None: its default."""
    only: str = ""
    """Text in the names of the contenders that are measured, besides ONNX Runtime."""

    def includes(self, case: Case, contender: Contender) -> bool:
        """Return whether a contender is measured in a case."""
        if contender is BASELINE:
            return True
        if self.only not in contender.name:
            return False
        match contender:
            case InProcess(mode, pair):
                is_main = pair in MAIN_PAIRS
                return (is_main and mode == "dense") if case.group == "brief" else is_main == (case.group == "main")
            case OverGrpc(mode, pair):
                is_main = (mode, pair) == ("dense", AUTO)
                return case.group != "brief" and pair in MAIN_PAIRS and is_main == (case.group == "main")
        return case.group == "main"

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
        Case("vgg16", 2048, group="brief"),
    ),
    is_full=False,
    seconds=4,
)
"""Less than 10 minutes on two cores."""
GROUPS: tuple[Group, ...] = ("main", "further")
FULL = Scope(
    tuple(
        Case(network, side, divisor, group)
        for network in NETWORKS
        for divisor in DIVISORS
        for group in GROUPS
        for side in (*SIDES[:2], *((2048,) if (network, divisor) == ("vgg16", 1) else ()), SIDES[2])
    ),
    is_full=True,
    seconds=10,
    tile_mib=Tuning.of_memory(1 / 12).tile_bytes >> 20,
)
"""Some hours on two cores. Tiles have half of their default memory, since two processes have two networks each."""
