"""Compares the networks of mode shared with the converted network on single windows: the scores must be equal."""

from collections.abc import Callable
from functools import partial

import numpy as np

from converter.graph.sharing.variants import SharedVariant
from converter.progress import Progress
from converter.verify.certificates import ModelFiles
from converter.verify.checks import check_equal, check_grid
from converter.verify.difference import difference
from converter.verify.images import sample_images
from converter.verify.networks import ConvertedNetwork, NetworkOutput
from fullconv.common.certificate import has_top_class
from fullconv.protos import model_pb2

GRID = (2, 3)
"""Rows and columns of the compared windows."""
SEED = 3


def compare_shared(files: ModelFiles, output: model_pb2.Output, progress: Progress) -> list[model_pb2.Difference]:
    """Return the difference of each file of mode shared from single windows; raises VerificationError if it is large.

    `output` describes the scores.
    """
    if files.shared:
        progress.step("comparing windows that share with single windows", len(files.shared) * GRID[0] * GRID[1])
    measure = partial(_difference, files, files.network(files.variants[0]), has_top_class(output), progress.advance)
    return [measure(variant) for variant in files.shared]


def _difference(
    files: ModelFiles,
    native: Callable[[np.ndarray], NetworkOutput],
    has_class: bool,  # noqa: FBT001 (given by partial)
    advance: Callable[[], None],
    variant: SharedVariant,
) -> model_pb2.Difference:
    (height, width), (down, across) = files.window, variant.multiple_of
    size = height + (GRID[0] - 1) * down, width + (GRID[1] - 1) * across
    pixels = next(sample_images(size, files.pixel_format, None, np.random.default_rng(SEED)))
    shared = ConvertedNetwork(variant.model, files.graph.layout, files.folder, variant.multiple_of)(pixels)
    check_grid(shared, *GRID, pixels)
    alone, together = list[NetworkOutput](), list[NetworkOutput]()
    for row, col in np.ndindex(*GRID):
        window = pixels[row * down : row * down + height, col * across : col * across + width]
        alone.append(native(np.ascontiguousarray(window)))
        together.append(NetworkOutput(shared.scores[row, col], shared.logits[row, col]))
        advance()
    check_equal("windows by themselves and windows that share", alone, together)
    return difference(alone, together, has_top_class=has_class)
