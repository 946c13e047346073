"""What must hold of a converted network, whatever the images: else nothing is written.

Tried on one image with some interior cells and the halo around them, made to that size:

- single windows: the converted network's scores are the source's;
- the grid has a cell for every window;
- tiles: an interior cell is the same from its tile alone;
- another stride: its cells are the native ones where they are the same windows;
- a network that reads nothing beyond its window: every cell is its crop.

Each difference must be rounding, of what goes into a softmax or sigmoid.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from converter.errors import VerificationError
from converter.verify.comparison import Comparison
from converter.verify.extent import Extent
from converter.verify.images import Pixels, sample_images
from converter.verify.networks import Scored

TOLERANCE = 1e-4
"""Largest difference that is rounding, relative to the largest score."""
CELLS = 4
"""Interior cells of the image along either axis: as many windows by as many."""
MAX_NUMBERS = 1 << 27
"""Of the image; ImageNet's networks need up to 15 million."""

Pair = tuple[list[Scored], list[Scored]]
"""What the source says of some windows, and what the converted network says of them."""


def check(comparison: Comparison, rng: np.random.Generator, advance: Callable[[], None]) -> Pair:
    """Check a network, and return what it and its source say of single windows; `advance` is called after each.

    Raises VerificationError. The windows of a network in reduced precision are compared, and nothing is checked.
    """
    image = Image(comparison, rng)
    reference, native = list[Scored](), list[Scored]()
    for row, col in image.interior:
        crop = image.part((row, row + 1), (col, col + 1))
        reference.append(comparison.source(crop))
        native.append(comparison.converted(crop))
        advance()
    if comparison.full is not None:
        return reference, native
    check_alike("on single windows", reference, native)
    dense = comparison.converted(image.pixels)
    check_grid(dense, image.rows.cells, image.cols.cells, image.pixels)
    _check_tiling(comparison, image, dense)
    _check_phase(comparison, image, dense)
    if comparison.exact:
        cells = [Scored(dense.scores[cell], dense.evidence[cell]) for cell in image.interior]
        check_alike("of dense against crops of an unpadded network", reference, cells)
    return reference, native


class Image:
    """The image that a network is checked on."""

    def __init__(self, comparison: Comparison, rng: np.random.Generator) -> None:
        """Make it; raises VerificationError if it would be too large."""
        self.rows, self.cols = around(comparison, CELLS)
        if self.rows.pixels * self.cols.pixels * comparison.wanted.channels > MAX_NUMBERS:
            raise VerificationError(
                f"verification: expected images of at most {MAX_NUMBERS} numbers to compare on, got "
                f"{self.rows.pixels}×{self.cols.pixels}: a cell reads {self.rows.axis.receptive_field}×"
                f"{self.cols.axis.receptive_field} pixels, and windows lie {self.rows.axis.stride}×"
                f"{self.cols.axis.stride} apart; choose smaller --strides"
            )
        size = self.rows.pixels, self.cols.pixels
        self.pixels = next(sample_images(size, comparison.wanted, comparison.folder, rng))
        self.interior = [(row, col) for row in self.rows.interior for col in self.cols.interior]

    def part(self, rows: tuple[int, int], cols: tuple[int, int]) -> Pixels:
        """What the windows of a range of rows and columns cover."""
        return self.pixels[self.rows.span(*rows), self.cols.span(*cols)]


def around(comparison: Comparison, interior: int) -> tuple[Extent, Extent]:
    """The smallest image with so many interior cells along either axis."""
    vertical, horizontal = (
        Extent.around(axis, size, interior) for axis, size in zip(comparison.geometry, comparison.window, strict=True)
    )
    return vertical, horizontal


def check_grid(dense: Scored, rows: int, cols: int, pixels: Pixels) -> None:
    """Raise VerificationError unless a pass over an image gives a cell for every window."""
    if dense.scores.shape[:2] != (rows, cols):
        raise VerificationError(
            f"verification: expected a grid of {rows}×{cols} for {pixels.shape[:2]} pixels, "
            f"got {dense.scores.shape[0]}×{dense.scores.shape[1]}; nothing was written"
        )


def _check_tiling(comparison: Comparison, image: Image, dense: Scored) -> None:
    """An interior cell is the same from its tile alone."""
    row, col = image.rows.interior[1], image.cols.interior[1]
    rows = (row - image.rows.before, row + image.rows.after + 1)
    cols = (col - image.cols.before, col + image.cols.after + 1)
    tile = comparison.converted(image.part(rows, cols))
    alone = Scored(*(part[image.rows.before, image.cols.before] for part in (tile.scores, tile.evidence)))
    whole = Scored(dense.scores[row, col], dense.evidence[row, col])
    check_alike("of a cell from its tile alone against the whole image", [whole], [alone])


def _check_phase(comparison: Comparison, image: Image, dense: Scored) -> None:
    """Where the cells of another stride and of the native one are the same windows, they say the same."""
    if comparison.native is None:
        return
    network, geometry = comparison.native
    own, theirs, sizes = [], [], []
    for extent, axis in zip((image.rows, image.cols), geometry, strict=True):
        common = math.lcm(extent.axis.stride, axis.stride)
        own.append(slice(None, None, common // extent.axis.stride))
        theirs.append(slice(None, None, common // axis.stride))
        sizes.append(extent.pixels - (extent.pixels - extent.window) % axis.stride)
    pixels = image.pixels[: sizes[0], : sizes[1]]  # beyond the native lattice the networks see other borders
    dense = dense if pixels.shape == image.pixels.shape else comparison.converted(pixels)
    one, other = dense.evidence[tuple(own)], network(pixels).evidence[tuple(theirs)]
    rows, cols = (min(sizes) for sizes in zip(one.shape[:2], other.shape[:2], strict=True))
    pair = [Scored(part[:rows, :cols], part[:rows, :cols]) for part in (other, one)]
    check_alike("of a stride's cells against the native ones", pair[:1], pair[1:])


def check_alike(what: str, reference: Sequence[Scored], got: Sequence[Scored]) -> None:
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


def check_telling(reference: Sequence[Scored]) -> None:
    """Raise VerificationError if the source says the same of every window, so that agreeing with it shows nothing."""
    evidence = np.stack([scored.evidence.ravel() for scored in reference])
    varies = np.ptp(evidence, axis=0).max() > TOLERANCE * np.abs(evidence).max()
    if len(reference) > 1 and not varies:
        raise VerificationError(
            "verification: the source network gives the same scores for every window, so that comparing with it shows "
            "nothing; check --preprocess, or give real images with --images"
        )
