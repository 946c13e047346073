"""What a network is that PyTorch exports for the tests: how it is built, its window, and which exporters write it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from make_exports import WINDOW, Head, Net
from torch import nn

BOTH = ("torchscript", "dynamo_batch")


@dataclass(frozen=True)
class Case:
    """A network to export; `variants` are names of `make_pytorch.VARIANTS`, `options` go to the exporter."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (1, 3, *WINDOW)
    variants: tuple[str, ...] = BOTH
    options: Mapping[str, object] = field(default_factory=dict)


def head(
    function: Head, *, window: tuple[int, int] = WINDOW, variants: tuple[str, ...] = BOTH, **options: object
) -> Case:
    """A head on the two convolutions of `Net`; windows of 22×26 give it a map of 8×4×5."""
    return Case(lambda: Net(function, hidden=6, window=window, **options), (1, 3, *window), variants)


def through(middle: Callable[[], nn.Module], *, channels: int = 6, variants: tuple[str, ...] = BOTH) -> Case:
    """Something in the middle of an unpadded trunk, as (6, 10, 12) maps, that ends in a global average pool."""
    return Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
            middle(),
            *(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        ),
        variants=variants,
    )
