"""The contenders of this project: in-process and over gRPC, in every mode of the network, by every provider."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from latency import served

from bench.contenders import Contender, Grid, Pixels, Prepared, Setup
from bench.networks import Network
from fullconv import Answer, Client, Scorer
from fullconv.base import BaseScorer
from fullconv.common.names import PrecisionName, ProviderName
from service.engine.requested_backend import is_installed

MODES = ("dense", "shared", "crops")
LARGEST_ANSWER = 32 << 20
"""Bytes of a grid up to which it is requested in one message; a larger grid is taken row by row."""


@dataclass(frozen=True)
class Pair:
    """A provider and a precision, as users request them. `requires` names the modules that must be installed."""

    provider: ProviderName
    precision: PrecisionName
    requires: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in the table."""
        return "auto" if self == AUTO else f"{self.provider} {self.precision}"

    @property
    def is_listed(self) -> bool:
        """Whether the table has a line for the pair also if it cannot run: unless it needs a GPU."""
        return self.provider in ("auto", "cpu", "openvino") or is_installed(self.provider)


AUTO = Pair("auto", "auto")
REFERENCE = Pair("cpu", "fp32")
PAIRS = (
    AUTO,
    REFERENCE,
    Pair("openvino", "fp32", ("openvino",)),
    Pair("openvino", "bf16", ("openvino",)),
    Pair("cuda", "fp32"),
    Pair("tensorrt", "fp32"),
    Pair("tensorrt", "bf16"),
)
"""The providers and precisions to measure, a line each."""


@dataclass(frozen=True)
class Ours:
    """A mode of this project, by a provider in a precision."""

    mode: str
    pair: Pair

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"fullconv {self.mode}, {self.pair.name}"

    @property
    def requires(self) -> tuple[str, ...]:
        """Modules that must be installed."""
        return self.pair.requires

    def fits(self, network: Network) -> bool:
        """Return whether the network has the mode."""
        return self.mode in network.spec.modes


class InProcess(Ours):
    """`fullconv.Scorer`."""

    def prepare(self, setup: Setup) -> Prepared:
        """Open the repository."""
        models, pair = setup.network.models, self.pair
        scorer = setup.open(
            ("in-process", pair), lambda: Scorer(models, provider=pair.provider, precision=pair.precision)
        )
        return prepared(scorer, setup, self.mode, self.pair)


class OverGrpc(Ours):
    """`fullconv.Client` with a server in a process of its own, on the same CPUs."""

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{super().name}, gRPC"

    def prepare(self, setup: Setup) -> Prepared:
        """Start the server, and connect to it."""
        flags = ["--provider", self.pair.provider, "--precision", self.pair.precision]
        server = setup.open(("server", self.pair), lambda: served(setup.network.models, *flags))
        client = setup.open(("client", self.pair), lambda: Client(server.address))
        return prepared(client, setup, self.mode, self.pair)


def prepared(scorer: BaseScorer, setup: Setup, mode: str, pair: Pair) -> Prepared:
    """Return a contender that scores in a mode. The detail of "auto" is the provider and the precision that ran."""
    options: dict[str, Any] = {"model": setup.network.name, "mode": mode, "stride": setup.stride}

    def multiply_adds(side: int) -> float:
        pixels = np.broadcast_to(np.uint8(0), (side, side, setup.network.channels))
        return scorer.plan(pixels, grid=True, **options).plan.multiply_adds

    def run(image: Pixels) -> Grid:
        answer, grid = _score(scorer, setup, options, image)
        made.detail = f"{answer.provider} {answer.precision}" if pair == AUTO else ""
        return grid

    made = Prepared(run, multiply_adds=None if mode == "crops" else multiply_adds)
    return made


def _score(scorer: BaseScorer, setup: Setup, options: dict[str, Any], image: Pixels) -> tuple[Answer, Grid]:
    rows, cols = ((side - setup.network.window) // setup.stride + 1 for side in image.shape[:2])
    if rows * cols * setup.network.spec.output.classes * 4 <= LARGEST_ANSWER:
        answer = scorer.score(image, grid=True, **options)
        return answer, np.asarray(answer.grid, np.float32)
    with scorer.score_large(image, grid=True, **options) as stream:
        grid = np.concatenate([scores for _, scores in stream.bands()], dtype=np.float32)
        return stream.result(), grid


CONTENDERS: tuple[Contender, ...] = tuple(
    kind(mode, pair) for pair in PAIRS if pair.is_listed for kind in (InProcess, OverGrpc) for mode in MODES
)
