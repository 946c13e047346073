"""Checks that every converted network must pass before it is written, independent of the user's images.

The checks use one image that is just large enough for some interior cells and the border around them:

- single windows: the converted network and the source give the same scores;
- grid: there is a cell for every window;
- tiles: an interior cell has the same scores if only its tile is scored;
- other strides: cells of the same window have the same scores at both strides;
- networks that read nothing beyond the window: every cell has the scores of its crop.

Scores are the same if the logits differ only by rounding. Logits are compared instead of probabilities.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from converter.errors import VerificationError
from converter.verify.comparison import TOLERANCE, Comparison
from converter.verify.grid_axis import GridAxis
from converter.verify.images import Pixels, noise_image, sample_images
from converter.verify.networks import NetworkOutput

CELLS = 4
"""Number of interior cells of the image along either axis; the square of this number of windows is compared."""
LEAST_CHECKED, SHARE_CHECKED = 4, 4
"""For expensive windows, fewer windows are compared: at least LEAST_CHECKED, and one for SHARE_CHECKED windows of the
certificate."""
MAX_ROUNDINGS = 10
"""Largest difference that counts as rounding, relative to the change of the source's scores if its input is rounded."""
CROPS_AND_CELLS = "crops and dense cells of an unpadded network"
MAX_NUMBERS = 1 << 27
"""Limit on the image's height × width × channels; ImageNet's networks need up to 15 million."""

Cell = tuple[int, int]
"""Row and column."""
Pair = tuple[list[NetworkOutput], list[NetworkOutput]]
"""The outputs of the source and of the converted network for the same windows."""


def check_conversion(comparison: Comparison, image: "CheckImage", advance: Callable[[], None]) -> Pair:
    """Check a converted network on an image; returns the source's outputs and its own for single windows.

    Calls `advance` after each window. Raises VerificationError if a check fails; for a network of reduced precision the
    windows are compared, but differences are not errors.
    """
    places = checked_cells(image.interior, comparison.budget.windows)
    crops = [image.pixels_of((row, row + 1), (col, col + 1)) for row, col in places]
    reference, native = list[NetworkOutput](), list[NetworkOutput]()
    for crop in crops:
        reference.append(comparison.source(crop))
        native.append(comparison.converted(crop))
        advance()

    def rounding(window: int) -> list[float]:
        return comparison.source.rounding(crops[window])

    if comparison.float_network is not None:
        return reference, native
    what = "the source and converted networks on single windows"
    check_equal(what, reference, native, comparison.tolerance, rounding)
    dense = image.dense
    check_grid(dense, image.rows.cells, image.cols.cells, image.pixels)
    _check_tile(comparison, image, dense)
    _check_stride(comparison, image, dense)
    if comparison.is_exact:
        check_equal(CROPS_AND_CELLS, reference, [dense[cell] for cell in places], rounding=rounding)
    return reference, native


def checked_count(windows: int) -> int:
    """Return how many windows are compared by themselves, for a certificate of so many windows."""
    return min(CELLS**2, max(LEAST_CHECKED, windows // SHARE_CHECKED))


def checked_cells(cells: Sequence[Cell], windows: int) -> Sequence[Cell]:
    """Return the cells whose windows are compared by themselves, for a certificate of so many windows."""
    count = checked_count(windows)
    return [cells[number * (len(cells) - 1) // (count - 1)] for number in range(count)]


class CheckImage:
    """The image on which a network is checked; `interior` lists its interior cells (row, col).

    It is a part of one of the user's images. Without such images it is noise: `sample`, which the certificate can use
    as one of its images.
    """

    def __init__(self, comparison: Comparison, rng: np.random.Generator) -> None:
        """Raise VerificationError if the image would be too large."""
        self.rows, self.cols = (
            GridAxis.with_interior(axis, size, CELLS)
            for axis, size in zip(comparison.geometry, comparison.window, strict=True)
        )
        vertical, horizontal = self.rows.geometry, self.cols.geometry
        if self.rows.pixels * self.cols.pixels * comparison.pixel_format.channels > MAX_NUMBERS:
            raise VerificationError(
                f"verification: expected images of at most {MAX_NUMBERS} numbers to compare on, got "
                f"{self.rows.pixels}×{self.cols.pixels}: a cell reads {vertical.receptive_field}×"
                f"{horizontal.receptive_field} pixels, and windows lie {vertical.stride}×"
                f"{horizontal.stride} apart; choose smaller --strides"
            )
        size = self.rows.pixels, self.cols.pixels
        self.sample = None
        if comparison.images is None:
            self.sample = noise_image(size, comparison.pixel_format, rng)
            self.pixels = self.sample.read(slice(0, size[0]), slice(0, size[1]))
        else:
            self.pixels = next(sample_images(size, comparison.pixel_format, comparison.images.readable, rng))
        self._converted = comparison.converted
        self.interior = [(row, col) for row in self.rows.interior for col in self.cols.interior]

    @cached_property
    def dense(self) -> NetworkOutput:
        """The converted network's output for the whole image."""
        return self._converted(self.pixels)

    @property
    def cells(self) -> int:
        """Number of cells of the image."""
        return self.rows.cells * self.cols.cells

    def pixels_of(self, rows: tuple[int, int], cols: tuple[int, int]) -> Pixels:
        """Return the pixels that the windows of a range of rows and a range of columns cover."""
        return self.pixels[self.rows.pixels_of(*rows), self.cols.pixels_of(*cols)]


def check_grid(dense: NetworkOutput, rows: int, cols: int, pixels: Pixels) -> None:
    """Raise VerificationError unless a pass over an image gave a cell for every window."""
    if dense.scores.shape[:2] != (rows, cols):
        raise VerificationError(
            f"verification: expected a grid of {rows}×{cols} for {pixels.shape[:2]} pixels, "
            f"got {dense.scores.shape[0]}×{dense.scores.shape[1]}; nothing was written"
        )


def _check_tile(comparison: Comparison, image: CheckImage, dense: NetworkOutput) -> None:
    """Raise VerificationError unless an interior cell has the same scores if only its tile is scored."""
    row, col = image.rows.interior[1], image.cols.interior[1]
    rows = (row - image.rows.before, row + image.rows.after + 1)
    cols = (col - image.cols.before, col + image.cols.after + 1)
    tile = comparison.converted(image.pixels_of(rows, cols))
    place = image.rows.before, image.cols.before
    what = "a cell of the whole image and the same cell of its tile alone"
    check_equal(what, [dense[row, col]], [tile[place]], comparison.tolerance)


def _check_stride(comparison: Comparison, image: CheckImage, dense: NetworkOutput) -> None:
    """Raise VerificationError unless cells of another stride equal the native cells of the same windows."""
    if comparison.native is None:
        return
    network, geometry = comparison.native
    own, theirs, sizes = [], [], []
    for grid, axis in zip((image.rows, image.cols), geometry, strict=True):
        common = math.lcm(grid.geometry.stride, axis.stride)
        own.append(slice(None, None, common // grid.geometry.stride))
        theirs.append(slice(None, None, common // axis.stride))
        sizes.append(grid.pixels - (grid.pixels - grid.window) % axis.stride)
    pixels = image.pixels[: sizes[0], : sizes[1]]  # beyond the native lattice the networks read different borders
    dense = dense if pixels.shape == image.pixels.shape else comparison.converted(pixels)
    one, other = dense[tuple(own)], network(pixels)[tuple(theirs)]
    rows, cols = (min(sizes) for sizes in zip(one.logits.shape[:2], other.logits.shape[:2], strict=True))
    reference, got = (each[:rows, :cols] for each in (other, one))
    check_equal("the cells of two strides for the same windows", [reference], [got], comparison.tolerance)


def check_equal(
    what: str,
    reference: Sequence[NetworkOutput],
    got: Sequence[NetworkOutput],
    tolerance: float = TOLERANCE,
    rounding: Callable[[int], list[float]] | None = None,
) -> None:
    """Raise VerificationError unless the logits are equal within a tolerance, relative to the largest of them.

    Each further output must be equal in the same way. `rounding` returns how far rounding changes each grid of a
    window: deep networks that are not trained may amplify it beyond the tolerance.
    """
    for part in range(1, len(reference[0].grids)):  # without the scores, which follow from the logits
        expected, found = (np.stack([each.grids[part].ravel() for each in outputs]) for outputs in (reference, got))
        of = "scores" if part == 1 else f"values of output {part - 1} of --also"
        unavoidable = partial(_unavoidable, rounding, part) if rounding else None
        _check_equal_arrays(f"the {of} of {what}", expected, found, tolerance, unavoidable)


def _unavoidable(rounding: Callable[[int], list[float]], part: int, window: int) -> float:
    """Return the difference of a window that rounding may cause."""
    return MAX_ROUNDINGS * rounding(window)[part]


def _check_equal_arrays(
    what: str,
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
    tolerance: float,
    unavoidable: Callable[[int], float] | None,
) -> None:
    """Raise VerificationError unless two arrays (windows, values) are finite and equal.

    `unavoidable` returns a larger difference that is allowed for a window.
    """
    if expected.shape != found.shape:
        raise VerificationError(f"verification: expected {expected.shape[1]} numbers for {what}, got {found.shape[1]}")
    if not np.isfinite(expected).all():
        raise VerificationError(
            f"verification: expected finite numbers for {what}, got NaN or infinity from the source; check its weights "
            "and, if it expects smaller numbers than pixel values from 0 to 255, add --preprocess"
        )
    allowed = tolerance * float(np.abs(expected).max())
    differences = np.abs(expected - found).max(1)
    largest, worst = float(differences.max()), int(differences.argmax())
    if largest > allowed and unavoidable is not None:
        allowed = max(allowed, unavoidable(worst))
    if not largest <= allowed:
        raise VerificationError(
            f"verification: expected a difference of at most {allowed:.1e} between {what}, got {largest:.1e}; "
            "nothing was written"
        )


def check_varies(reference: Sequence[NetworkOutput]) -> None:
    """Raise VerificationError if the source scores every window alike, so that agreement would be meaningless."""
    logits = np.stack([output.logits.ravel() for output in reference])
    varies = np.ptp(logits, axis=0).max() > TOLERANCE * np.abs(logits).max()
    if len(reference) > 1 and not varies:
        raise VerificationError(
            "verification: expected scores that differ between windows, got the same scores for every window, so that "
            "the comparison shows nothing; check --preprocess, or give real images with --images"
        )
