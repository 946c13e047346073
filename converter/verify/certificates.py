"""The certificates of a model: each of its files is written, loaded and compared with the source."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.converted import ConvertedGraph
from converter.graph.sharing.variants import SharedVariant
from converter.graph.strides import Variant
from converter.progress import Progress
from converter.runtime import loading_problem
from converter.verify.checks import CELLS
from converter.verify.comparison import Comparison
from converter.verify.given_images import GivenImages
from converter.verify.grid_axis import GridAxis
from converter.verify.images import PixelFormat
from converter.verify.networks import ConvertedNetwork, CropsNetwork, Network, SourceNetwork
from converter.verify.parity import check_agreement, measure_parity
from converter.verify.sampling import Budget
from fullconv.protos import model_pb2

PASS_BYTES = 1 << 29
"""Limit on the bytes of activations of a dense pass over an image, or a part of it, in a comparison."""
MORE_WINDOWS, CHEAP_CROPS, CHEAP_SYNTHETIC_CROPS = 4, 5e11, 2.5e11
"""All windows of the images are compared if their number is at most MORE_WINDOWS times the requested number, and if
their crops need at most CHEAP_CROPS multiply-adds; of synthetic images at most CHEAP_SYNTHETIC_CROPS."""
WINDOWS, LEAST_WINDOWS = 256, 16
"""Default number of windows to compare, and the smallest default number for expensive windows of synthetic images."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model in one precision, for windows (height, width); their weights lie in `folder`."""

    graph: ConvertedGraph
    window: tuple[int, int]
    variants: Sequence[Variant]
    folder: Path
    pixel_format: PixelFormat
    shared: Sequence[SharedVariant] = ()
    """The files of mode shared with the classifier's own scores."""
    cut: Sequence[SharedVariant] = ()
    """The files of mode shared whose margins are cut off."""

    def network(self, variant: Variant) -> Network:
        """Return a file as a function of an image of any size."""
        network = ConvertedNetwork(variant.model, self.graph.layout, self.folder)
        is_dense = self.graph.mode == "dense"
        return network if is_dense else CropsNetwork(network, variant.geometry, self.window)


def default_windows(graph: ConvertedGraph, *, given: bool) -> int:
    """Return how many windows are compared if the user requests no number; `given` says that there are images.

    Synthetic images show less than the user's images do, and get no more windows than CHEAP_SYNTHETIC_CROPS allows.
    """
    affordable = int(CHEAP_SYNTHETIC_CROPS / max(1.0, graph.cost.multiply_adds_per_crop))
    return WINDOWS if given else min(WINDOWS, max(LEAST_WINDOWS, affordable))


@dataclass(frozen=True)
class Reference:
    """The reference of certificates: the source network, and images.

    `images` are the user's; None stands for synthetic images. `windows` is the number of windows to compare. `output`
    describes the scores.
    """

    source: SourceNetwork
    _: KW_ONLY
    images: GivenImages | None
    windows: int
    output: model_pb2.Output


@dataclass(frozen=True)
class Reduction:
    """A reduction of precision: its name, the same files in float32, and the smallest share of agreeing windows."""

    precision: str
    in_float: ModelFiles
    min_agreement: float


def certify(
    reference: Reference, files: ModelFiles, reduction: Reduction | None, progress: Progress
) -> list[model_pb2.Parity]:
    """Write every file of a model and compare it with the source; returns one certificate per file.

    With `reduction` each file is also compared with the same file in float32. Raises UnsupportedError if ONNX Runtime
    cannot load a file, and VerificationError.
    """
    certificates, native = [], None
    for variant in files.variants:
        ir.save(variant.model, files.folder / variant.name)
    for shared in (*files.shared, *files.cut):
        ir.save(shared.model, files.folder / shared.name)
    if reduction:
        _check_loading(files, reduction.precision)
    for position, variant in enumerate(files.variants):
        announce = partial(progress.step, f"comparing stride {variant.geometry.vertical.stride} with the source")
        converted = files.network(variant)
        in_float = reduction.in_float if reduction else None
        comparison = Comparison(
            source=reference.source,
            converted=converted,
            native=native,
            float_network=in_float.network(in_float.variants[position]) if in_float else None,
            geometry=variant.geometry,
            window=files.window,
            pixel_format=files.pixel_format,
            images=reference.images,
            budget=_budget(files, variant, reference),
            output=reference.output,
        )
        certificates.append(measure_parity(comparison, announce, progress.advance))
        if reduction:
            check_agreement(certificates[-1], reduction.precision, reduction.min_agreement)
        native = native or (converted, variant.geometry)
    return certificates


def _check_loading(files: ModelFiles, precision: str) -> None:
    """Raise UnsupportedError if ONNX Runtime cannot load a file as servers load it."""
    if problem := loading_problem([files.folder / variant.name for variant in files.variants]):
        raise UnsupportedError(f"precision: cannot be {precision}: {problem}; choose another --precision")


def _budget(files: ModelFiles, variant: Variant, reference: Reference) -> Budget:
    """Return the number of windows to compare, and the largest size of a pass over an image."""
    axes = [GridAxis.with_interior(*each, CELLS) for each in zip(variant.geometry, files.window, strict=True)]
    least = math.prod(axis.pixels for axis in axes)
    if files.graph.mode == "crops":
        return Budget(reference.windows, least, is_per_window=True)
    affordable = int(CHEAP_CROPS / max(1.0, variant.cost.multiply_adds_per_crop))
    pixels = max(least, int(PASS_BYTES / variant.cost.activation_bytes_per_pixel))
    more = min(MORE_WINDOWS * reference.windows, affordable) if reference.images is not None else 0
    return Budget(reference.windows, pixels, more)
