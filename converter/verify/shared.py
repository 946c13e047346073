"""Compares the networks of mode shared with the converted network on single windows: the scores must be equal.

Each network scores a grid of windows of one image, which ends at the image's bottom left for every network: the last
window in the first column is the same for all of them, and is scored by itself only once.
"""

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
from converter.verify.networks import ConvertedNetwork, NetworkOutput
from fullconv.common.certificate import has_top_class
from fullconv.protos import model_pb2

GRID = (2, 2)
"""Rows and columns of windows that are scored together: the smallest grid with strips between rows and columns."""
COMPARED = ((0, 1), (1, 0))
"""Rows and columns of the windows that are also scored by themselves: both have every part of the network, and would
change places if rows and columns did. The second is at the bottom left."""
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
    if not files.shared:
        return SharedFiles([], [])
    progress.step("comparing windows that share with single windows", len(files.shared) * len(COMPARED))
    windows, kept, removed = SingleWindows(files), list[model_pb2.SharedFile](), list[str]()
    for variant in files.shared:
        try:
            alone, together = _scores(files, windows, variant, progress)
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


class SingleWindows:
    """The windows of an image that holds the grids of all networks of mode shared.

    `scored` holds the outputs of the compared windows by themselves, by top and left edge.
    """

    def __init__(self, files: ModelFiles) -> None:
        """Score the windows; the network is not kept, because each loaded network holds the weights in memory."""
        most = [max(each.multiple_of[axis] for each in files.shared) for axis in (0, 1)]
        size = [length + (count - 1) * step for length, count, step in zip(files.window, GRID, most, strict=True)]
        rng = np.random.default_rng(SEED)
        self.pixels = next(sample_images((size[0], size[1]), files.pixel_format, None, rng))
        self.scored: dict[tuple[int, int], NetworkOutput] = {}
        network = files.network(files.variants[0])
        for corner in [self.corner(variant, cell, files.window[0]) for variant in files.shared for cell in COMPARED]:
            if corner not in self.scored:
                (top, left), (height, width) = corner, files.window
                window = self.pixels[top : top + height, left : left + width]
                self.scored[corner] = network(np.ascontiguousarray(window))

    def corner(self, variant: SharedVariant, cell: tuple[int, int], height: int) -> tuple[int, int]:
        """Return the top and left edge of a window of a network's grid; `height` is that of the window in pixels."""
        down, across = variant.multiple_of
        return len(self.pixels) - height - (GRID[0] - 1 - cell[0]) * down, cell[1] * across


def _scores(
    files: ModelFiles, windows: SingleWindows, variant: SharedVariant, progress: Progress
) -> tuple[list[NetworkOutput], list[NetworkOutput]]:
    """Return the scores of windows by themselves and of the same windows in mode shared."""
    height, width = files.window
    top, _ = windows.corner(variant, (0, 0), height)
    pixels = np.ascontiguousarray(windows.pixels[top:, : width + (GRID[1] - 1) * variant.multiple_of[1]])
    shared = ConvertedNetwork(variant.model, files.graph.layout, files.folder, variant.multiple_of)(pixels)
    check_grid(shared, *GRID, pixels)
    alone, together = list[NetworkOutput](), list[NetworkOutput]()
    for cell in COMPARED:
        alone.append(windows.scored[windows.corner(variant, cell, height)])
        together.append(shared[cell])
        progress.advance()
    return alone, together
