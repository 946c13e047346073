"""The networks and images that a certificate compares."""

from dataclasses import dataclass

from converter.graph.geometry import Geometry2D
from converter.verify.given_images import GivenImages
from converter.verify.images import PixelFormat
from converter.verify.networks import Network, SourceNetwork
from converter.verify.sampling import Budget
from fullconv.common.certificate import has_top_class
from fullconv.protos import model_pb2

TOLERANCE = 1e-4
"""Largest difference that counts as rounding, relative to the largest logit."""
STEP_TOLERANCE = 0.05
"""The same for a network that quantizes: a value in the middle between two steps may be rounded to either."""


@dataclass(frozen=True)
class Comparison:
    """Two networks, the geometry of the converted network, and the images on which they are compared.

    `window` is (height, width) in pixels. `native` is the converted network at its native stride, with its geometry;
    None if `converted` has that stride itself. `float_network` is the converted network in float32; None if `converted`
    is in float32 itself, so that differences must be rounding where the geometry says so. `images` are the user's;
    None stands for synthetic images. `output` describes the scores.
    """

    source: SourceNetwork
    converted: Network
    native: tuple[Network, Geometry2D] | None
    float_network: Network | None
    geometry: Geometry2D
    window: tuple[int, int]
    pixel_format: PixelFormat
    images: GivenImages | None
    budget: Budget
    output: model_pb2.Output

    @property
    def tolerance(self) -> float:
        """Largest difference that counts as rounding, relative to the largest logit."""
        return STEP_TOLERANCE if self.source.quantizes else TOLERANCE

    @property
    def has_top_class(self) -> bool:
        """Whether the highest score determines a class."""
        return has_top_class(self.output)

    @property
    def makes_decisions(self) -> bool:
        """Whether the scores determine a class: the top class or, for a single class, whether it is present."""
        return self.output.kind != "raw"

    @property
    def is_exact(self) -> bool:
        """Whether each cell must equal its crop: it reads only its own window, and is computed in float32."""
        if self.float_network is not None or self.source.quantizes:
            return False
        return all(axis.is_exact(size) for axis, size in zip(self.geometry, self.window, strict=True))
