"""Measures how far networks of mode shared whose margins are cut off agree with the source network."""

import math

import numpy as np

from converter.progress import Progress
from converter.verify.certificates import ModelFiles, Reference
from converter.verify.difference import difference
from converter.verify.grid_axis import GridAxis
from converter.verify.networks import ConvertedNetwork, NetworkOutput
from converter.verify.parity import kept_cells
from converter.verify.sampling import FEW_IMAGES, Budget, choose_cells
from fullconv.common.certificate import has_top_class
from fullconv.protos import model_pb2

SEED = 4


def measure_cut_margins(reference: Reference, files: ModelFiles, progress: Progress) -> list[model_pb2.SharedFile]:
    """Return the descriptions of networks whose margins are cut off, with their difference from single windows.

    The windows are chosen at random among those of the images of `reference`, which must not be synthetic.
    """
    if not files.cut or reference.images is None:
        return []
    rng, geometry = np.random.default_rng(SEED), files.variants[0].geometry
    given = reference.images.usable
    images = (given[number] for number in rng.permutation(len(given)))
    budget = _budget(files, reference.windows, len(given))
    samples = choose_cells(images, geometry, files.window, budget, rng)
    progress.step("comparing cut margins with the source", sum(len(sample.cells) for sample in samples))
    networks = [ConvertedNetwork(each.model, files.graph.layout, files.folder, each.multiple_of) for each in files.cut]
    own, found = list[NetworkOutput](), [list[NetworkOutput]() for _ in networks]
    for sample in samples:
        pixels = sample.pixels
        grids = [kept_cells(network(pixels), sample, pixels) for network in networks]
        for row, col in sample.cells:
            window = sample.rows.window_of(row), sample.cols.window_of(col)
            own.append(reference.source(np.ascontiguousarray(pixels[window])))
            at = row - sample.rows.first, col - sample.cols.first
            for outputs, grid in zip(found, grids, strict=True):
                outputs.append(NetworkOutput(grid.scores[at].copy(), grid.logits[at].copy()))
            progress.advance()
    is_ranked = has_top_class(reference.output)
    return [
        variant.message(difference(own, outputs, has_top_class=is_ranked))
        for variant, outputs in zip(files.cut, found, strict=True)
    ]


def _budget(files: ModelFiles, windows: int, images: int) -> Budget:
    """Return a budget of parts of images that hold the windows to compare and few others."""
    side = math.isqrt(-(-windows // min(FEW_IMAGES, images)) - 1) + 1
    axes = [GridAxis.with_interior(*each, side) for each in zip(files.variants[0].geometry, files.window, strict=True)]
    return Budget(windows, math.prod(axis.pixels for axis in axes), is_per_window=True)
