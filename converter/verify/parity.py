"""The parity certificate: how far the converted network agrees with its source, measured.

Three comparisons, each with the source network on single windows as the reference: the converted network on the same
windows (rounding, or the conversion is wrong), the dense grid where a cell's reading stays inside the image, and the
dense grid at the image's edges.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.errors import VerificationError
from converter.graph.geometry import Axis, Plane
from converter.verify.images import sample_images
from protos import model_pb2

TOLERANCE = 1e-4
"""Largest difference that is rounding, relative to the largest score."""
PER_IMAGE = 16
"""Windows of either sort, interior and border, taken from one image."""
NATIVE_WINDOWS = 16
"""Windows that the converted network scores one by one."""
SEED = 1  # the same source gives the same certificate

Score = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Scores one image (height, width, channels) uint8: (rows, cols, classes) float32."""


@dataclass(frozen=True)
class Comparison:
    """Two networks, what is known of them, and how many windows of which images to compare them on."""

    source: Score
    converted: Score
    plane: Plane
    window: tuple[int, int]
    channels: int
    images: Path | None
    windows: int


@dataclass(frozen=True)
class Sample:
    """One window of an image, and the dense score that stands for it."""

    crop: NDArray[np.uint8]
    dense: NDArray[np.float32]
    interior: bool


def measure(comparison: Comparison, advance: Callable[[], None]) -> model_pb2.Parity:
    """Measure the native stride's certificate; `advance` is called after every window.

    Raises VerificationError if the networks differ where they must not.
    """
    samples = list(islice(_samples(comparison), comparison.windows))
    reference = []
    for sample in samples:
        reference.append(comparison.source(sample.crop)[0, 0])
        advance()
    native = [comparison.converted(sample.crop)[0, 0] for sample in samples[:NATIVE_WINDOWS]]
    inside = [position for position, sample in enumerate(samples) if sample.interior]
    border = [position for position, sample in enumerate(samples) if not sample.interior]
    parity = model_pb2.Parity(
        stride=model_pb2.Size(height=comparison.plane[0].stride, width=comparison.plane[1].stride),
        native=_difference(reference[: len(native)], native),
        interior=_difference([reference[at] for at in inside], [samples[at].dense for at in inside]),
        border=_difference([reference[at] for at in border], [samples[at].dense for at in border]),
        exact=all(axis.exact(size) for axis, size in zip(comparison.plane, comparison.window, strict=True)),
    )
    _check(parity, float(np.abs(reference).max()))
    return parity


def verdict(parity: model_pb2.Parity) -> str:
    """The certificate in words."""
    parts = [part for part in (parity.interior, parity.border) if part.windows]
    windows = sum(part.windows for part in parts)
    largest = max(part.max_abs for part in parts)
    if parity.exact:
        return f"exact: dense equals crops to rounding (largest difference {largest:.1e} over {windows} windows)"
    agreement = sum(part.top_class_agreement * part.windows for part in parts) / windows
    norm = max(part.relative_l2 for part in parts)
    return (
        f"dense differs from crops, since the network is padded or reads beyond its window: the top class agrees on "
        f"{agreement:.0%} of {windows} windows; scores differ by up to {largest:.2g} ({norm:.2g} in relative L2 norm)"
    )


def _samples(comparison: Comparison) -> Iterator[Sample]:
    rng = np.random.default_rng(SEED)
    axes = list(zip(comparison.plane, comparison.window, strict=True))
    spans = [_interior(axis) for axis, _ in axes]
    cells = [span.stop + _halo_after(axis, window) for span, (axis, window) in zip(spans, axes, strict=True)]
    height, width = (window + (count - 1) * axis.stride for count, (axis, window) in zip(cells, axes, strict=True))
    inside = [(row, col) for row in spans[0] for col in spans[1]]
    border = sorted({(row, col) for row in range(cells[0]) for col in range(cells[1])} - set(inside))
    for image in sample_images((height, width), comparison.channels, comparison.images, rng):
        dense = comparison.converted(image)
        drawn = rng.permutation(border)[: len(inside)].tolist()
        for pair in zip(inside, drawn, strict=True) if border else ((cell,) for cell in inside):
            for row, col in pair:
                yield Sample(_crop(image, row, col, comparison), dense[row, col], (row, col) in inside)


def _interior(axis: Axis) -> range:
    """Cells that read nothing beyond the image: enough for one image's windows."""
    before = -(-axis.padding_before // axis.stride)
    return range(before, before + math.isqrt(PER_IMAGE))


def _halo_after(axis: Axis, window: int) -> int:
    return -(-max(0, axis.receptive_field - axis.padding_before - window) // axis.stride)


def _crop(image: NDArray[np.uint8], row: int, col: int, comparison: Comparison) -> NDArray[np.uint8]:
    (vertical, horizontal), (height, width) = comparison.plane, comparison.window
    top, left = row * vertical.stride, col * horizontal.stride
    return image[top : top + height, left : left + width]


def _difference(reference: list[NDArray[np.float32]], got: list[NDArray[np.float32]]) -> model_pb2.Difference:
    if not reference:
        return model_pb2.Difference()
    expected, found = np.asarray(reference, np.float64), np.asarray(got, np.float64)
    difference = np.abs(expected - found)
    norm = float(np.linalg.norm(expected))
    return model_pb2.Difference(
        windows=len(reference),
        max_abs=float(difference.max()),
        median_abs=float(np.median(difference)),
        relative_l2=float(np.linalg.norm(difference)) / norm if norm else 0.0,
        top_class_agreement=float((expected.argmax(-1) == found.argmax(-1)).mean()),
    )


def _check(parity: model_pb2.Parity, largest_score: float) -> None:
    allowed = TOLERANCE * largest_score
    if not np.isfinite(largest_score):
        raise VerificationError("verification: the source network gives NaN or infinite scores; check its weights")
    if not parity.native.max_abs <= allowed:
        raise VerificationError(
            f"verification: on single windows expected a difference of at most {allowed:.1e}, "
            f"got {parity.native.max_abs:.1e}; nothing was written"
        )
    if parity.exact and not parity.interior.max_abs <= allowed:
        raise VerificationError(
            f"verification: dense against crops of an unpadded network expected a difference of at most {allowed:.1e}, "
            f"got {parity.interior.max_abs:.1e}; nothing was written"
        )
