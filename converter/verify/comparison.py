"""What a certificate compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.graph.geometry import Geometry2D
from converter.verify.images import SampleImage, Wanted
from converter.verify.networks import Network, SourceNetwork
from converter.verify.sampling import Budget
from fullconv.common.certificate import has_top_class
from fullconv.protos import model_pb2


@dataclass(frozen=True)
class Comparison:
    """Two networks, what is known of the converted one, and what they are compared on.

    `window` is (height, width) in pixels. `native` is the converted network at its native stride, and its geometry;
    None if it is the one that is compared. `full` is the converted network in float32; None if it is the one that is
    compared, whose differences then must be rounding where the geometry says so. `images` are the user's, of `folder`;
    None: synthetic ones. `output` says what the scores are.
    """

    source: SourceNetwork
    converted: Network
    native: tuple[Network, Geometry2D] | None
    full: Network | None
    geometry: Geometry2D
    window: tuple[int, int]
    wanted: Wanted
    folder: Path | None
    images: Sequence[SampleImage] | None
    budget: Budget
    output: model_pb2.Output

    @property
    def ranked(self) -> bool:
        """Whether the highest score names a class."""
        return has_top_class(self.output)

    @property
    def decides(self) -> bool:
        """Whether the scores name a class, or, if there is a single one, whether it is there."""
        return self.output.kind != "raw"

    @property
    def exact(self) -> bool:
        """Whether a cell must equal its crop: it reads its own window and nothing else, in float32."""
        return self.full is None and all(
            axis.is_exact(size) for axis, size in zip(self.geometry, self.window, strict=True)
        )
