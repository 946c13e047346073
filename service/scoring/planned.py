"""A planned image: everything that scoring it needs, decided before a pixel is decoded."""

from collections.abc import Callable
from dataclasses import dataclass

from service.engine.repository import StoredModel
from service.engine.session import Session
from service.images.mask import Mask
from service.images.picture import Picture
from service.scoring.options import ResolvedOptions
from service.scoring.plan import Plan

Check = Callable[[], None]
"""Called repeatedly during long work; raises an error to stop the work."""
OpenMask = Callable[[Check], Mask | None]
"""Opens the mask from the top; None if every window is scored."""


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
