"""A planned image: everything that scoring it needs, decided before a pixel is decoded."""

from collections.abc import Callable
from dataclasses import dataclass

from service.engine.backend import REFERENCE
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.images.areas import Area
from service.images.decoding import Decoding
from service.images.mask import Mask
from service.images.picture import Picture
from service.scoring.options import ResolvedOptions
from service.scoring.plan import Plan

OpenMask = Callable[[Decoding], Mask | None]
"""Opens the mask from the top; None if every window is scored."""


@dataclass(frozen=True)
class PlannedDecoding:
    """What decoding the image, and its mask, costs a request."""

    held_bytes: int = 0
    """Peak bytes that the decoders hold, and the pixels that are kept for further views."""
    seconds: float = 0.0
    """Predicted seconds of one CPU, by the rates that were observed on this machine."""
    nominal_seconds: float = 0.0
    """The same by the rates of `DecodingCost`, which depend on the file alone."""
    passes: float = 0.0
    """How often the image is decoded; reading a reduced copy is a part of a pass."""
    keeps_pixels: bool = False
    """Whether the image is decoded once, and its pixels kept for all views."""


@dataclass(frozen=True, eq=False)
class PlannedImage:
    """One image, the model that scores it, its plan and its mask."""

    picture: Picture
    model: StoredModel
    session: Session
    """Runs the model's file that the plan chose."""
    plan: Plan
    options: ResolvedOptions
    open_mask: OpenMask = lambda _: None
    decoding: PlannedDecoding = PlannedDecoding()
    areas: tuple[Area, ...] = ()
    """The named areas, over whose windows averages are made too."""
    resolution_note: str = ""
    """What the caller should know about the resolution; empty if there is nothing to say."""

    @property
    def precision(self) -> str:
        """The number format of the computation if it is not fp32, or else the precision of the model."""
        computed, own = self.session.backend.precision, self.model.spec.precision
        return own if own and computed == REFERENCE.precision else computed

    @property
    def warnings(self) -> list[str]:
        """Remarks on the image that the caller should read before using the scores."""
        remarks = self.picture.warnings(self.model.spec.input)
        return [*remarks, self.resolution_note] if self.resolution_note else remarks

    @property
    def held_bytes(self) -> int:
        """Peak bytes beside the model and a running batch."""
        return self.plan.held_bytes + self.decoding.held_bytes

    @property
    def bytes(self) -> int:
        """Peak bytes beside the model."""
        return self.plan.bytes + self.decoding.held_bytes

    @property
    def seconds(self) -> float:
        """Predicted seconds of decoding and compute."""
        return self.decoding.seconds + self.session.predict_seconds(self.plan.multiply_adds)
