"""Compares the networks of mode shared with the converted network on single windows: the scores must be equal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from converter.errors import ConversionError, UnsupportedError
from converter.graph.sharing.variants import SharedVariant
from converter.progress import Progress
from converter.runtime import loading_problem
from converter.verify.certificates import ModelFiles
from converter.verify.checks import check_equal, check_grid
from converter.verify.difference import difference
from converter.verify.images import sample_images
from converter.verify.networks import ConvertedNetwork, Network, NetworkOutput
from fullconv.common.certificate import has_top_class
from fullconv.protos import model_pb2

GRID = (2, 3)
"""Rows and columns of windows that are scored together."""
COMPARED = ((0, 0), (1, 2))
"""Rows and columns of the windows that are also scored by themselves: both have every part of the network, strips and
corners of each side, and lie in different rows and columns."""
SEED = 3


@dataclass(frozen=True)
class SharedFiles:
    """The files of mode shared that were compared, with their differences, and the reasons why others were removed."""

    files: Sequence[model_pb2.SharedFile]
    removed: Sequence[str]


def compare_shared(files: ModelFiles, output: model_pb2.Output, progress: Progress, *, may_round: bool) -> SharedFiles:
    """Compare each file of mode shared with single windows, and remove files that differ or cannot be loaded.

    `output` describes the scores. A network that `may_round` computes in steps: its rounding depends on the sizes of
    maps, so that a difference is no reason to remove a file. The other modes need none of these files.
    """
    if files.shared:
        progress.step("comparing windows that share with single windows", len(files.shared) * len(COMPARED))
    native, kept, removed = files.network(files.variants[0]), list[model_pb2.SharedFile](), list[str]()
    for variant in files.shared:
        try:
            alone, together = _scores(files, native, variant, progress)
            if not may_round:
                check_equal("windows by themselves and windows that share", alone, together)
            elif problem := loading_problem([files.folder / variant.name]):
                raise UnsupportedError(problem)
        except ConversionError as error:
            (files.folder / variant.name).unlink()
            removed.append(f"{variant.name}: {error}")
            continue
        kept.append(variant.message(difference(alone, together, has_top_class=has_top_class(output))))
    return SharedFiles(kept, removed)


def _scores(
    files: ModelFiles, native: Network, variant: SharedVariant, progress: Progress
) -> tuple[list[NetworkOutput], list[NetworkOutput]]:
    """Return the scores of windows by themselves and of the same windows in mode shared."""
    (height, width), (down, across) = files.window, variant.multiple_of
    size = height + (GRID[0] - 1) * down, width + (GRID[1] - 1) * across
    pixels = next(sample_images(size, files.pixel_format, None, np.random.default_rng(SEED)))
    shared = ConvertedNetwork(variant.model, files.graph.layout, files.folder, variant.multiple_of)(pixels)
    check_grid(shared, *GRID, pixels)
    alone, together = list[NetworkOutput](), list[NetworkOutput]()
    for row, col in COMPARED:
        window = pixels[row * down : row * down + height, col * across : col * across + width]
        alone.append(native(np.ascontiguousarray(window)))
        together.append(shared[row, col])
        progress.advance()
    return alone, together
