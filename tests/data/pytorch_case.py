"""The description of a network that PyTorch exports for the tests: how it is built, its window, and the exporters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from make_exports import WINDOW, Head, Net
from torch import nn

ONE = ("torchscript_batch",)
"""The variant for networks for which both exporters write the same nodes."""
BOTH = ("torchscript", "dynamo_batch")
FIXED = ("torchscript", "dynamo")


@dataclass(frozen=True)
class Case:
    """A network to export, and `images` inputs of one shape; `variants` are names of `make_pytorch.VARIANTS`."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (1, 3, *WINDOW)
    variants: tuple[str, ...] = BOTH
    dtype: torch.dtype = torch.float32
    images: int = 1


def head(function: Head, *, window: tuple[int, int] = WINDOW, variants: tuple[str, ...] = BOTH, **options: Any) -> Case:
    """Return a case with a head on the two convolutions of `Net`, which give a map of 6×4×5 for windows of 22×26."""
    return Case(lambda: Net(function, channels=(4, 6), hidden=4, window=window, **options), (1, 3, *window), variants)


def through(middle: Callable[[], nn.Module], *, channels: int = 6, variants: tuple[str, ...] = ONE) -> Case:
    """Return a case: a module in the middle of an unpadded trunk, on maps (6, 10, 12), and a global average pool."""
    return Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
            middle(),
            *(nn.Conv2d(channels, 5, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 5)),
        ),
        variants=variants,
    )
