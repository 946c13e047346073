"""The contenders in PyTorch: batches of windows, and MONAI's `sliding_window_inference`."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.contenders import Contender, Grid, Pixels, Prepared, Setup, best_size, prepare_crops
from bench.networks import Network

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Module:
    """The network in PyTorch. In bf16, it runs under autocast, and its maps have their channels last."""

    network: Any
    bf16: bool

    def score_tensor(self, windows: "torch.Tensor") -> "torch.Tensor":
        """Return the scores of windows, (windows, classes) float32."""
        import torch  # noqa: PLC0415 (optional)

        if self.bf16:
            windows = windows.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            scores: torch.Tensor = self.network(windows).float()
        return scores

    def score(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of windows, (windows, classes)."""
        import torch  # noqa: PLC0415 (optional)

        scores: NDArray[np.float32] = self.score_tensor(torch.from_numpy(windows)).numpy()
        return scores


def load(setup: Setup, precision: str) -> Module:
    """Return the network in a precision, which all contenders of this precision share."""
    import torch  # noqa: PLC0415 (optional)

    def make() -> Module:
        network = setup.network.module()
        bf16 = precision == "bf16"
        return Module(network.to(memory_format=torch.channels_last) if bf16 else network, bf16)

    return setup.open(("pytorch", precision), lambda: nullcontext(make()))


@dataclass(frozen=True)
class TorchCrops:
    """The network in PyTorch on batches of windows."""

    precision: str
    requires: tuple[str, ...] = ("torch",)

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"PyTorch {self.precision}, crops"

    def fits(self, network: Network) -> bool:  # noqa: ARG002 (of every contender)
        """Return whether the network can be scored in this way."""
        return True

    def prepare(self, setup: Setup) -> Prepared:
        """Load the network."""
        module = load(setup, self.precision)
        return prepare_crops(setup, f"PyTorch {self.precision}", module.score, setup.crops)


@dataclass(frozen=True)
class MonaiWindows:
    """MONAI's `sliding_window_inference` over the network in PyTorch.

    MONAI writes the output of every window into a map of the image, and averages where windows overlap. The network
    gives one vector of scores for a window, so the predictor repeats this vector over the cells of the map that the
    window covers, and keeps the vector itself for the grid. The cells are as large as possible: their side divides the
    window and the stride. The averaging is part of the time, because MONAI always does it.
    """

    precision: str
    requires: tuple[str, ...] = ("torch", "monai")

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"MONAI sliding_window_inference {self.precision}"

    def fits(self, network: Network) -> bool:  # noqa: ARG002 (of every contender)
        """Return whether the network can be scored in this way."""
        return True

    def prepare(self, setup: Setup) -> Prepared:
        """Load the network."""
        from monai.inferers import sliding_window_inference  # noqa: PLC0415 (optional)

        module = load(setup, self.precision)
        size = best_size(setup, f"PyTorch {self.precision}", module.score, setup.crops)
        return Prepared(lambda image: _slide(sliding_window_inference, setup, module, size, image), f"batch {size}")


def _slide(slide: Callable[..., Any], setup: Setup, module: Module, size: int, image: Pixels) -> Grid:
    """Score an image by MONAI; returns the scores of every window."""
    import torch  # noqa: PLC0415 (optional)

    window, stride = setup.network.window, setup.stride
    rows, cols = ((side - window) // stride + 1 for side in image.shape[:2])
    grid = np.empty((rows, cols, setup.network.spec.output.classes), np.float32)
    cells = window // math.gcd(window, stride)

    def predict(windows: "torch.Tensor", places: list[list[slice]]) -> "torch.Tensor":
        scores = module.score_tensor(windows)
        for place, vector in zip(places, scores.numpy(), strict=True):
            grid[place[-2].start // stride, place[-1].start // stride] = vector
        return scores[..., None, None].repeat(1, 1, cells, cells)

    overlap = 1 - (stride + 0.5) / window  # MONAI rounds window · (1 − overlap) down
    pixels = torch.from_numpy(setup.network.prepare(image))[None]
    slide(pixels, (window, window), size, predict, overlap=overlap, with_coord=True)
    return grid


CONTENDERS: tuple[Contender, ...] = (*map(TorchCrops, PRECISIONS), *map(MonaiWindows, PRECISIONS))
