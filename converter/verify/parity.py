"""The parity certificate: the measured agreement of the converted network with its source.

`checks` has the conditions that every correct conversion meets. The certificate is an additional measurement: dense
passes over images at their own size are compared with the source network on single windows of the images, separately
for interior cells and border cells, which the geometry distinguishes. It reports the figures of these windows. For a
network of reduced precision, the difference from the same network in float32 is measured too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from converter.errors import VerificationError
from converter.verify.checks import (
    CROPS_AND_CELLS,
    CheckImage,
    check_conversion,
    check_equal,
    check_grid,
    check_varies,
    checked_count,
)
from converter.verify.comparison import Comparison
from converter.verify.difference import difference
from converter.verify.images import Pixels, SampleImage
from converter.verify.networks import NetworkOutput
from converter.verify.sampling import Sample, choose_cells, synthetic_images_for
from fullconv.protos import model_pb2

SEED = 1  # the same source gives the same certificate


@dataclass(frozen=True)
class ComparedCell:
    """One cell: the outputs of the source and of the dense pass for its window, and whether the cell is interior."""

    crop: NetworkOutput
    dense: NetworkOutput
    is_interior: bool


def measure_parity(
    comparison: Comparison, announce: Callable[[int], None], advance: Callable[[], None]
) -> model_pb2.Parity:
    """Return the certificate of one stride; calls `announce` with the number of windows, `advance` after each window.

    Raises VerificationError if the networks differ where they must not, or if the comparison is meaningless.
    """
    rng = np.random.default_rng(SEED)
    image = CheckImage(comparison, rng)
    images = _images(comparison, image, rng)
    samples = choose_cells(images, comparison.geometry, comparison.window, comparison.budget, rng)
    announce(checked_count(comparison.budget.windows) + sum(len(sample.cells) for sample in samples))
    reference, native = check_conversion(comparison, image, advance)
    grids = list[tuple[NetworkOutput, NetworkOutput]]()
    cells = [cell for sample in samples for cell in _compare(comparison, image, sample, grids, advance)]
    crops, dense = [cell.crop for cell in cells], [cell.dense for cell in cells]
    check_varies(reference + crops)
    if comparison.is_exact:
        check_equal(CROPS_AND_CELLS, crops, dense, rounding=lambda cell: _rounding(comparison, samples, cell))

    def seen(chosen: list[ComparedCell]) -> model_pb2.Difference:
        crops, dense = [cell.crop for cell in chosen], [cell.dense for cell in chosen]
        return difference(crops, dense, has_top_class=comparison.has_top_class)

    in_float, reduced = [full for full, _ in grids], [own for _, own in grids]
    return model_pb2.Parity(
        stride=model_pb2.Size(height=comparison.geometry.vertical.stride, width=comparison.geometry.horizontal.stride),
        native=difference(reference, native, has_top_class=comparison.has_top_class),
        interior=seen([cell for cell in cells if cell.is_interior]),
        border=seen([cell for cell in cells if not cell.is_interior]),
        overall=seen(cells),
        of_given_images=comparison.images is not None,
        images=len(samples),
        small_images=sum(not sample.has_interior for sample in samples),
        exact=comparison.is_exact,
        precision=difference(in_float, reduced, has_top_class=comparison.makes_decisions),
    )


def check_agreement(parity: model_pb2.Parity, precision: str, least: float) -> None:
    """Raise VerificationError if a network of reduced precision agrees on too few windows with its float32 version."""
    measured = parity.precision
    if measured.agreement_high and not measured.top_class_agreement >= least:
        raise VerificationError(
            f"precision: expected {precision} to name the same top class as fp32 on at least {least:.2%} of windows, "
            f"got {measured.top_class_agreement:.2%} of {measured.windows} at stride {parity.stride.height}; give "
            "--images like those to be scored, another --precision, or a lower --min-agreement; nothing was written"
        )


def _images(comparison: Comparison, image: CheckImage, rng: np.random.Generator) -> Iterator[SampleImage]:
    """Yield the images to measure on: the user's in random order or, without them, the checked image and others."""
    if comparison.images is not None:
        given = comparison.images.usable
        yield from (given[number] for number in rng.permutation(len(given)))
        return
    if image.sample:
        yield image.sample
    yield from synthetic_images_for(
        comparison.geometry, comparison.window, comparison.pixel_format, comparison.budget, image.cells, rng
    )


def _rounding(comparison: Comparison, samples: Sequence[Sample], number: int) -> list[float]:
    """Return how far rounding changes each grid of a cell, by its number among those of all samples."""
    for sample in samples:
        if number < len(sample.cells):
            break
        number -= len(sample.cells)
    return comparison.source.rounding(sample.window_of(sample.cells[number], sample.pixels))


def _compare(
    comparison: Comparison,
    image: CheckImage,
    sample: Sample,
    grids: list[tuple[NetworkOutput, NetworkOutput]],
    advance: Callable[[], None],
) -> Iterator[ComparedCell]:
    """Yield the cells of one sample; for reduced precision, add the grids in both precisions to `grids`."""
    pixels = sample.pixels
    is_known = sample.image is image.sample and sample.is_whole
    dense = kept_cells(image.dense if is_known else comparison.converted(pixels), sample, pixels)
    if comparison.float_network is not None:
        grids.append((kept_cells(comparison.float_network(pixels), sample, pixels), dense))
    for row, col in sample.cells:
        crop = comparison.source(sample.window_of((row, col), pixels))
        own = row - sample.rows.first, col - sample.cols.first
        # a copy, so that the rest of the grid can be freed
        yield ComparedCell(crop, dense[own].copy(), sample.is_interior((row, col)))
        advance()


def kept_cells(output: NetworkOutput, sample: Sample, pixels: Pixels) -> NetworkOutput:
    """Return the cells of a pass that equal those of a pass over the whole image."""
    rows, cols = sample.rows, sample.cols
    check_grid(output, rows.cells_scored, cols.cells_scored, pixels)
    return output[rows.cells_kept, cols.cells_kept]
