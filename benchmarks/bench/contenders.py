"""What a contender is, and the first of them: the original classifier in ONNX Runtime, with which all are compared.

A contender has a name, the packages that it requires, and `prepare`, which opens what it needs and returns how it
scores an image. What several contenders use, such as a server, is opened once by `Setup.open`.
"""

import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.networks import Network
from bench.windows import Sample, batches, windows_of

Pixels = NDArray[np.uint8]
"""An image, (height, width, channels). It has no pixels that belong to no window."""
Grid = NDArray[np.float32]
"""Scores of every window, (rows, cols, classes)."""
ScoreWindows = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Scores windows: (windows, channels, window, window) → (windows, classes)."""
Opened = TypeVar("Opened")

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of windows in a batch that are tried."""
TRIAL_SECONDS = 0.3
"""Seconds for which each size of a batch is tried, after one run; at least one run."""


@dataclass(frozen=True)
class Setup:
    """A network and a stride, with everything that contenders have opened for them."""

    network: Network
    stride: int
    sample: Sample
    """The windows that stand for an image when crops are timed."""
    stack: ExitStack
    opened: dict[Hashable, Any] = field(default_factory=dict)

    def crops(self, image: Pixels) -> NDArray[np.float32]:
        """Return a view of every window as the original classifier takes it, (rows, cols, channels, window, window)."""
        return windows_of(self.network.prepare(image), self.network.window, self.stride)

    def open(self, key: Hashable, make: Callable[[], AbstractContextManager[Opened]]) -> Opened:
        """Return what `make` opens. It is opened once for each key, and closed with the stack."""
        if key not in self.opened:
            self.opened[key] = self.stack.enter_context(make())
        opened: Opened = self.opened[key]
        return opened


@dataclass
class Prepared:
    """A contender that can score."""

    run: Callable[[Pixels], Grid]
    detail: str = ""
    """What it has chosen: the size of its batches, or a provider and a precision. It may be set by a run."""
    multiply_adds: Callable[[int], float] | None = None
    """Returns the multiply-adds for an image of a side in pixels. None: the time is proportional to the windows."""


class Contender(Protocol):
    """A way to score every window of an image."""

    @property
    def name(self) -> str:
        """Name in the table."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Modules that must be installed."""

    def fits(self, network: Network) -> bool:
        """Return whether the network can be scored in this way."""

    def prepare(self, setup: Setup) -> Prepared:
        """Open what is needed. Any exception is reported in the table."""


def prepare_crops(
    setup: Setup,
    key: str,
    score: ScoreWindows,
    cut: Callable[[Pixels], NDArray[Any]],
    concurrently: int = 1,
) -> Prepared:
    """Return a contender that scores batches of windows; the fastest size of a batch is used.

    Args:
        setup: The network and the stride.
        key: Name of the function that scores; the size is found once for each name and network.
        score: Scores windows.
        cut: Returns a view of every window of an image, (rows, cols, channels, window, window).
        concurrently: Number of batches that are scored at the same time.
    """
    size = best_size(setup, key, score, cut, concurrently)
    apply: Callable[..., Any] = map
    if concurrently > 1:
        apply = setup.open(("threads", concurrently), lambda: ThreadPoolExecutor(concurrently)).map

    def run(image: Pixels) -> Grid:
        views = cut(image)
        return np.concatenate([*apply(score, batches(views, size))]).reshape(*views.shape[:2], -1)

    return Prepared(run, f"batch {size}")


def best_size(
    setup: Setup, key: str, score: ScoreWindows, cut: Callable[[Pixels], NDArray[Any]], concurrently: int = 1
) -> int:
    """Return the number of windows in a batch with which `score` takes the least time for a window.

    A part of an image that is timed has at least `concurrently` batches of this size.
    """
    network, largest = setup.network, setup.sample.rows * setup.sample.cols
    if key not in network.batches:
        shape = (network.window, network.window, network.channels)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        windows = np.repeat(next(batches(cut(noise), 1)), largest // concurrently, axis=0)
        network.batches[key] = fastest_batch(score, windows)
    return network.batches[key]


def fastest_batch(score: ScoreWindows, windows: NDArray[Any]) -> int:
    """Return the number of windows in a batch, at most all of `windows`, with which a window takes the least time."""
    sizes = [size for size in BATCHES if size <= len(windows)]
    times = {size: _seconds_of(partial(score, windows[:size])) / size for size in sizes}
    return min(times, key=lambda size: times[size])


def _seconds_of(run: Callable[[], object]) -> float:
    """Return the least seconds of some runs."""
    run()
    times, until = list[float](), time.perf_counter() + TRIAL_SECONDS
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


class OnnxRuntimeCrops:
    """The original classifier in ONNX Runtime, with its default options, on batches of windows."""

    name = "ONNX Runtime, crops"
    requires = ("onnxruntime",)

    def fits(self, network: Network) -> bool:  # noqa: ARG002 (of every contender)
        """Return whether the network can be scored in this way."""
        return True

    def prepare(self, setup: Setup) -> Prepared:
        """Load the network."""
        session = ort.InferenceSession(setup.network.original, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return prepare_crops(setup, self.name, lambda windows: session.run(None, {name: windows})[0], setup.crops)


BASELINE = OnnxRuntimeCrops()
"""The contender whose scores are the expected ones, and whose time is divided by that of the others."""
