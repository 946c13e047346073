"""The parity certificate: how far the converted network agrees with its source, measured.

`checks` says what must hold, or the conversion is wrong. What remains is a measurement: dense passes over images at
their own size against the source network on single windows of them, interior cells and those at the border apart, as
the geometry tells them. It says what was seen on these windows. Of a network in reduced precision, the difference from
the same network in float32 is measured besides.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from converter.errors import VerificationError
from converter.verify.checks import CELLS, check, check_alike, check_grid, check_telling
from converter.verify.comparison import Comparison
from converter.verify.difference import difference
from converter.verify.images import Pixels, SampleImage
from converter.verify.networks import Scored
from converter.verify.sampling import Sample, sampled, synthetic
from fullconv.protos import model_pb2

SEED = 1  # the same source gives the same certificate


@dataclass(frozen=True)
class Cell:
    """What the source says of a window, what the dense pass says of it, and whether the pass reads within the image."""

    crop: Scored
    dense: Scored
    interior: bool


def measure(comparison: Comparison, announce: Callable[[int], None], advance: Callable[[], None]) -> model_pb2.Parity:
    """Measure the certificate of one stride; `announce` is told the number of windows, `advance` called after each.

    Raises VerificationError if the networks differ where they must not, or if the comparison shows nothing.
    """
    rng = np.random.default_rng(SEED)
    samples = sampled(_images(comparison, rng), comparison.geometry, comparison.window, comparison.budget, rng)
    announce(CELLS**2 + sum(len(sample.cells) for sample in samples))
    reference, native = check(comparison, rng, advance)
    grids = list[tuple[Scored, Scored]]()
    cells = [cell for sample in samples for cell in _cells(comparison, sample, grids, advance)]
    crops, dense = [cell.crop for cell in cells], [cell.dense for cell in cells]
    check_telling(reference + crops)
    if comparison.exact:
        check_alike("of dense against crops of an unpadded network", crops, dense)

    def seen(chosen: list[Cell]) -> model_pb2.Difference:
        return difference([cell.crop for cell in chosen], [cell.dense for cell in chosen], ranked=comparison.ranked)

    return model_pb2.Parity(
        stride=model_pb2.Size(height=comparison.geometry.vertical.stride, width=comparison.geometry.horizontal.stride),
        native=difference(reference, native, ranked=comparison.ranked),
        interior=seen([cell for cell in cells if cell.interior]),
        border=seen([cell for cell in cells if not cell.interior]),
        overall=seen(cells),
        images=len(samples),
        small_images=sum(not sample.has_interior for sample in samples),
        exact=comparison.exact,
        precision=difference([full for full, _ in grids], [own for _, own in grids], ranked=comparison.decides),
    )


def check_agreement(parity: model_pb2.Parity, precision: str, least: float) -> None:
    """Raise VerificationError if a network of reduced precision names too often another class than in float32."""
    measured = parity.precision
    if measured.agreement_high and not measured.top_class_agreement >= least:
        raise VerificationError(
            f"precision: expected {precision} to name the same top class as fp32 on at least {least:.2%} of windows, "
            f"got {measured.top_class_agreement:.2%} of {measured.windows} at stride {parity.stride.height}; give "
            "--images like those to be scored, another --precision, or a lower --min-agreement; nothing was written"
        )


def _images(comparison: Comparison, rng: np.random.Generator) -> Iterator[SampleImage]:
    """The images to measure on, in random order."""
    given = comparison.images
    if given is None:
        yield from synthetic(comparison.geometry, comparison.window, comparison.wanted, comparison.budget, rng)
    else:
        yield from (given[number] for number in rng.permutation(len(given)))


def _cells(
    comparison: Comparison, sample: Sample, grids: list[tuple[Scored, Scored]], advance: Callable[[], None]
) -> Iterator[Cell]:
    """The cells of one image; what the networks of either precision say of all of them goes into `grids`."""
    pixels = sample.pixels
    dense = _pass(comparison.converted(pixels), sample, pixels)
    if comparison.full is not None:
        grids.append((_pass(comparison.full(pixels), sample, pixels), dense))
    for row, col in sample.cells:
        crop = comparison.source(np.ascontiguousarray(pixels[sample.rows.crop(row), sample.cols.crop(col)]))
        own = row - sample.rows.first, col - sample.cols.first
        cell = Scored(dense.scores[own].copy(), dense.evidence[own].copy())  # the rest of the grid can go
        yield Cell(crop, cell, sample.is_interior((row, col)))
        advance()


def _pass(dense: Scored, sample: Sample, pixels: Pixels) -> Scored:
    """The cells of a pass that are as in a pass over the whole image."""
    rows, cols = sample.rows, sample.cols
    check_grid(dense, rows.passed, cols.passed, pixels)
    return Scored(dense.scores[rows.kept, cols.kept], dense.evidence[rows.kept, cols.kept])
