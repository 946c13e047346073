"""The parity certificate: how far the converted network agrees with its source, measured.

Three comparisons, each with the source network on single windows as the reference: the converted network on the same
windows (rounding, or the conversion is wrong), the dense grid where a cell's reading stays inside the image, and the
dense grid at the image's edges. Whether an interior cell depends on its receptive field alone, which tiling relies on,
is tried too. What rounding is is told for networks in float32; of reduced precision, the difference from the same
network in float32 is measured besides.
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
from converter.verify.networks import Network, Scored, SourceNetwork
from protos import model_pb2

TOLERANCE = 1e-4
"""Largest difference that is rounding, relative to the largest score."""
INTERIOR_CELLS = 4
"""Interior cells of an image, along either axis."""
FEW = 4
"""Windows of each sort from an image, so that many images come to be seen; more where its pass costs more crops."""
NATIVE_WINDOWS = 16
"""Windows that the converted network scores one by one."""
MAX_NUMBERS = 1 << 27
"""Of an image to compare on; ImageNet's networks need up to 15 million."""
SEED = 1  # the same source gives the same certificate


@dataclass(frozen=True)
class Extent:
    """The images to compare on, along one axis: an interior of some cells, and the halo around it."""

    axis: Axis
    window: int

    @property
    def before(self) -> int:
        """Cells at the top or left that read beyond the image."""
        return -(-self.axis.padding_before // self.axis.stride)

    @property
    def after(self) -> int:
        """Cells at the bottom or right that read beyond the image."""
        reach = self.axis.receptive_field - self.axis.padding_before - self.window
        return -(-max(0, reach) // self.axis.stride)

    @property
    def interior(self) -> range:
        """The cells that read nothing beyond the image."""
        return range(self.before, self.before + INTERIOR_CELLS)

    @property
    def cells(self) -> int:
        """All cells."""
        return self.interior.stop + self.after

    @property
    def pixels(self) -> int:
        """What they cover."""
        return self.window + (self.cells - 1) * self.axis.stride

    def span(self, first: int, stop: int) -> slice:
        """The pixels that the windows of cells [first, stop) cover."""
        return slice(first * self.axis.stride, (stop - 1) * self.axis.stride + self.window)


@dataclass(frozen=True)
class Comparison:
    """Two networks, what is known of the converted one, where the images come from, and how many windows to compare.

    `window` is (height, width) in pixels. `native` is the converted network at its native stride, and its geometry;
    None if it is the one that is compared. `full` is the converted network in float32; None if it is the one that is
    compared, whose differences then must be rounding where the geometry says so.
    """

    source: SourceNetwork
    converted: Network
    native: tuple[Network, Plane] | None
    full: Network | None
    plane: Plane
    window: tuple[int, int]
    channels: int
    images: Path | None
    windows: int

    @property
    def vertical(self) -> Extent:
        """The images from top to bottom."""
        return Extent(self.plane[0], self.window[0])

    @property
    def horizontal(self) -> Extent:
        """The images from left to right."""
        return Extent(self.plane[1], self.window[1])

    @property
    def exact(self) -> bool:
        """Whether a cell must equal its crop: it reads its own window and nothing else, in float32."""
        return self.full is None and all(
            extent.axis.exact(extent.window) for extent in (self.vertical, self.horizontal)
        )

    def part(self, image: NDArray[np.uint8], rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.uint8]:
        """What the windows of a range of rows and columns cover of an image."""
        return image[self.vertical.span(*rows), self.horizontal.span(*cols)]


@dataclass(frozen=True)
class Sample:
    """One window of an image, and what the dense pass says of it."""

    crop: NDArray[np.uint8]
    dense: Scored
    interior: bool


def measure(comparison: Comparison, advance: Callable[[], None]) -> model_pb2.Parity:
    """Measure the certificate of one stride; `advance` is called after every window.

    Raises VerificationError if the networks differ where they must not, or if the comparison shows nothing.
    """
    pixels = comparison.vertical.pixels * comparison.horizontal.pixels
    if pixels * comparison.channels > MAX_NUMBERS:
        raise VerificationError(
            f"verification: expected images of at most {MAX_NUMBERS} numbers to compare on, got "
            f"{comparison.vertical.pixels}×{comparison.horizontal.pixels}: a cell reads "
            f"{comparison.plane[0].receptive_field}×{comparison.plane[1].receptive_field} pixels, and windows lie "
            f"{comparison.plane[0].stride}×{comparison.plane[1].stride} apart; choose smaller --strides"
        )
    samples, reference, grids = [], [], list[tuple[Scored, Scored]]()
    for sample in islice(_samples(comparison, grids), comparison.windows):
        samples.append(sample)
        reference.append(comparison.source(sample.crop))
        advance()
    native = [comparison.converted(sample.crop) for sample in samples[:NATIVE_WINDOWS]]
    dense = [sample.dense for sample in samples]
    if comparison.full is None:
        _check_alike("on single windows", reference[: len(native)], native)
    _check_telling(reference)
    if comparison.exact:
        _check_alike("of dense against crops of an unpadded network", reference, dense)
    inside = [position for position, sample in enumerate(samples) if sample.interior]
    border = [position for position, sample in enumerate(samples) if not sample.interior]
    return model_pb2.Parity(
        stride=model_pb2.Size(height=comparison.vertical.axis.stride, width=comparison.horizontal.axis.stride),
        native=difference(reference[: len(native)], native),
        interior=difference([reference[at] for at in inside], [dense[at] for at in inside]),
        border=difference([reference[at] for at in border], [dense[at] for at in border]),
        exact=comparison.exact,
        precision=difference([full for full, _ in grids], [own for _, own in grids]),
    )


def check_agreement(parity: model_pb2.Parity, precision: str, least: float) -> None:
    """Raise VerificationError if a network of reduced precision names too often another class than in float32."""
    measured = parity.precision
    if not measured.top_class_agreement >= least:
        raise VerificationError(
            f"precision: expected {precision} to name the same top class as fp32 on at least {least:.2%} of windows, "
            f"got {measured.top_class_agreement:.2%} of {measured.windows} at stride {parity.stride.height}; give "
            "--images like those to be scored, another --precision, or a lower --min-agreement; nothing was written"
        )


def verdict(parity: model_pb2.Parity) -> str:
    """The certificate in words."""
    parts = [part for part in (parity.interior, parity.border) if part.windows]
    windows = sum(part.windows for part in parts)
    largest = max(part.max_abs for part in parts)
    if parity.exact:
        return f"exact: dense equals crops to rounding (largest difference {largest:.1e} over {windows} windows)"
    agreement = sum(part.top_class_agreement * part.windows for part in parts) / windows
    norm = max(part.relative_l2 for part in parts)
    said = "dense differs from crops, since the network is padded or reads beyond its window"
    if parity.precision.windows:
        said = "dense differs from the source network's crops"
    return (
        f"{said}: the top class agrees on {agreement:.0%} of {windows} windows; "
        f"scores differ by up to {largest:.2g} ({norm:.2g} in relative L2 norm)"
    )


def precision_verdict(parity: model_pb2.Parity) -> str:
    """What reduced precision changes, in words."""
    measured = parity.precision
    return (
        f"the top class is that of fp32 on {measured.top_class_agreement:.2%} of {measured.windows} windows; "
        f"scores differ by up to {measured.max_abs:.2g} ({measured.relative_l2:.2g} in relative L2 norm)"
    )


def _samples(comparison: Comparison, grids: list[tuple[Scored, Scored]]) -> Iterator[Sample]:
    """Windows without end: of every image some interior ones and, if it has a halo, as many at its border.

    What the network in float32 and the one of reduced precision say of the images goes into `grids`.
    """
    rng = np.random.default_rng(SEED)
    vertical, horizontal = comparison.vertical, comparison.horizontal
    inside = dict.fromkeys((row, col) for row in vertical.interior for col in horizontal.interior)
    border = [cell for cell in np.ndindex(vertical.cells, horizontal.cells) if cell not in inside]
    size = (vertical.pixels, horizontal.pixels)
    crops = vertical.pixels * horizontal.pixels // (vertical.window * horizontal.window)
    count = min(max(FEW, crops), len(inside))
    for number, image in enumerate(sample_images(size, comparison.channels, comparison.images, rng)):
        dense = comparison.converted(image)
        if comparison.full is not None:
            grids.append((comparison.full(image), dense))
        elif number == 0:
            _check_tiling(comparison, image, dense)
            _check_phase(comparison, image)
        for row, col in _drawn(list(inside), border, count, rng):
            crop = comparison.part(image, (row, row + 1), (col, col + 1))
            cell = Scored(dense.scores[row, col], dense.evidence[row, col])
            yield Sample(crop, cell, interior=(row, col) in inside)


def _drawn(
    inside: list[tuple[int, int]], border: list[tuple[int, int]], count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Some cells of one image, interior and border in turn."""
    chosen = [rng.permutation(cells)[:count].tolist() for cells in (inside, border) if cells]
    return [(row, col) for cells in zip(*chosen, strict=False) for row, col in cells]


def _check_tiling(comparison: Comparison, image: NDArray[np.uint8], dense: Scored) -> None:
    """The grid has a cell for every window, and an interior cell is the same from its tile alone."""
    vertical, horizontal = comparison.vertical, comparison.horizontal
    if dense.scores.shape[:2] != (vertical.cells, horizontal.cells):
        raise VerificationError(
            f"verification: expected a grid of {vertical.cells}×{horizontal.cells} for {image.shape[:2]} pixels, "
            f"got {dense.scores.shape[0]}×{dense.scores.shape[1]}; nothing was written"
        )
    row, col = vertical.interior[1], horizontal.interior[1]
    rows = (row - vertical.before, row + vertical.after + 1)
    cols = (col - horizontal.before, col + horizontal.after + 1)
    tile = comparison.converted(comparison.part(image, rows, cols))
    alone = Scored(*(part[vertical.before, horizontal.before] for part in (tile.scores, tile.evidence)))
    whole = Scored(dense.scores[row, col], dense.evidence[row, col])
    _check_alike("of a cell from its tile alone against the whole image", [whole], [alone])


def _check_phase(comparison: Comparison, image: NDArray[np.uint8]) -> None:
    """Where the cells of another stride and of the native one are the same windows, they say the same."""
    if comparison.native is None:
        return
    network, plane = comparison.native
    own, theirs, sizes = [], [], []
    for extent, axis in zip((comparison.vertical, comparison.horizontal), plane, strict=True):
        common = math.lcm(extent.axis.stride, axis.stride)
        own.append(slice(None, None, common // extent.axis.stride))
        theirs.append(slice(None, None, common // axis.stride))
        sizes.append(extent.pixels - (extent.pixels - extent.window) % axis.stride)
    pixels = image[: sizes[0], : sizes[1]]  # beyond the native lattice the networks see other borders
    dense, native = comparison.converted(pixels), network(pixels)
    one, other = dense.evidence[tuple(own)], native.evidence[tuple(theirs)]
    rows, cols = (min(sizes) for sizes in zip(one.shape[:2], other.shape[:2], strict=True))
    pair = [Scored(part[:rows, :cols], part[:rows, :cols]) for part in (other, one)]
    _check_alike("of a stride's cells against the native ones", pair[:1], pair[1:])


def _check_alike(what: str, reference: list[Scored], got: list[Scored]) -> None:
    """Raise VerificationError unless the evidence is equal to rounding."""
    expected, found = (np.stack([scored.evidence.ravel() for scored in scores]) for scores in (reference, got))
    if expected.shape != found.shape:
        raise VerificationError(f"verification: expected {expected.shape[1]} scores {what}, got {found.shape[1]}")
    if not np.isfinite(expected).all():
        raise VerificationError("verification: the source network gives NaN or infinite scores; check its weights")
    allowed = TOLERANCE * float(np.abs(expected).max())
    largest = float(np.abs(expected - found).max())
    if not largest <= allowed:
        raise VerificationError(
            f"verification: {what} expected a difference of at most {allowed:.1e}, got {largest:.1e}; "
            "nothing was written"
        )


def _check_telling(reference: list[Scored]) -> None:
    """Raise VerificationError if the source says the same of every window, so that agreeing with it shows nothing."""
    evidence = np.stack([scored.evidence.ravel() for scored in reference])
    varies = np.ptp(evidence, axis=0).max() > TOLERANCE * np.abs(evidence).max()
    if len(reference) > 1 and not varies:
        raise VerificationError(
            "verification: the source network gives the same scores for every window, so that comparing with it shows "
            "nothing; check --preprocess, or give real images with --images"
        )


def difference(reference: list[Scored], got: list[Scored]) -> model_pb2.Difference:
    """Compare what two networks say of the same windows; the first is what the second should say."""
    if not reference:
        return model_pb2.Difference()
    expected, found = (
        np.concatenate([scored.scores.reshape(-1, scored.scores.shape[-1]) for scored in scores], dtype=np.float64)
        for scores in (reference, got)
    )
    one, other = (np.concatenate([_decisions(scored) for scored in scores]) for scores in (reference, got))
    apart = np.abs(expected - found)
    norm = float(np.linalg.norm(expected))
    return model_pb2.Difference(
        windows=len(expected),
        max_abs=float(apart.max()),
        median_abs=float(np.median(apart)),
        relative_l2=float(np.linalg.norm(apart)) / norm if norm else 0.0,
        top_class_agreement=float((one == other).mean()),
    )


def _decisions(scored: Scored) -> NDArray[np.int64]:
    """Each cell's top class; of a single one, whether it is there: beyond 0 before a sigmoid."""
    evidence = scored.evidence.reshape(-1, scored.evidence.shape[-1])
    return evidence.argmax(-1) if evidence.shape[-1] > 1 else (evidence[:, 0] > 0).astype(np.int64)
