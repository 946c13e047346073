"""The contenders of this project: in-process and over gRPC, in every mode of the network, by every provider."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from latency import served

from bench.contenders import Contender, Grid, Pixels, Prepared, Setup
from bench.networks import Network
from fullconv import Client, Scorer
from fullconv.base import BaseScorer

MODES = ("dense", "shared", "crops")
LARGEST_ANSWER = 32 << 20
"""Bytes of a grid up to which it is requested in one message; a larger grid is taken row by row."""


@dataclass(frozen=True)
class Pair:
    """A provider and a precision. `requires` names the modules that must be installed."""

    provider: str
    precision: str
    requires: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the scorer and of the server; empty for their defaults."""
        own = {"provider": self.provider, "precision": self.precision}
        return {} if own == DEFAULTS else own


DEFAULTS = {"provider": "cpu", "precision": "fp32"}
PAIRS = (Pair("cpu", "fp32"),)
"""The providers and precisions to measure, a line each."""


@dataclass(frozen=True)
class InProcess:
    """`fullconv.Scorer`."""

    mode: str
    pair: Pair

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"fullconv {self.mode}, {self.pair.provider} {self.pair.precision}"

    @property
    def requires(self) -> tuple[str, ...]:
        """Modules that must be installed."""
        return self.pair.requires

    def fits(self, network: Network) -> bool:
        """Return whether the network has the mode."""
        return self.mode in network.spec.modes

    def prepare(self, setup: Setup) -> Prepared:
        """Open the repository."""
        settings: dict[str, Any] = self.pair.settings
        scorer = setup.open(("in-process", self.pair), lambda: Scorer(setup.network.models, **settings))
        return prepared(scorer, setup, self.mode)


@dataclass(frozen=True)
class OverGrpc:
    """`fullconv.Client` with a server in a process of its own, on the same CPUs."""

    mode: str
    pair: Pair

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"fullconv {self.mode}, {self.pair.provider} {self.pair.precision}, gRPC"

    @property
    def requires(self) -> tuple[str, ...]:
        """Modules that must be installed."""
        return self.pair.requires

    def fits(self, network: Network) -> bool:
        """Return whether the network has the mode."""
        return self.mode in network.spec.modes

    def prepare(self, setup: Setup) -> Prepared:
        """Start the server, and connect to it."""
        flags = [f"--{name}={value}" for name, value in self.pair.settings.items()]
        server = setup.open(("server", self.pair), lambda: served(setup.network.models, *flags))
        return prepared(setup.open(("client", self.pair), lambda: Client(server.address)), setup, self.mode)


def prepared(scorer: BaseScorer, setup: Setup, mode: str) -> Prepared:
    """Return a contender that scores in a mode."""
    options: dict[str, Any] = {"model": setup.network.name, "mode": mode, "stride": setup.stride}

    def multiply_adds(side: int) -> float:
        pixels = np.broadcast_to(np.uint8(0), (side, side, setup.network.channels))
        return scorer.plan(pixels, grid=True, **options).plan.multiply_adds

    run = partial(_score, scorer, setup, options)
    return Prepared(run, multiply_adds=None if mode == "crops" else multiply_adds)


def _score(scorer: BaseScorer, setup: Setup, options: dict[str, Any], image: Pixels) -> Grid:
    rows, cols = ((side - setup.network.window) // setup.stride + 1 for side in image.shape[:2])
    if rows * cols * setup.network.spec.output.classes * 4 <= LARGEST_ANSWER:
        return np.asarray(scorer.score(image, grid=True, **options).grid, np.float32)
    with scorer.score_large(image, grid=True, **options) as stream:
        return np.concatenate([scores for _, scores in stream.bands()], dtype=np.float32)


CONTENDERS: tuple[Contender, ...] = tuple(
    kind(mode, pair) for pair in PAIRS for kind in (InProcess, OverGrpc) for mode in MODES
)
