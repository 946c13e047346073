"""A planned image: everything that scoring it needs, decided before a pixel is decoded."""

from collections.abc import Callable
from dataclasses import dataclass

from service.engine.engine import PREFETCH_BATCHES
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.images.mask import Mask
from service.images.picture import Picture
from service.scoring.options import ResolvedOptions
from service.scoring.plan import Plan

SMALL_PIXELS = 1 << 16
"""Pixels of an image that is decoded in less time than it takes to hand it to another thread and back."""

Check = Callable[[], None]
"""Called now and then during long work; raises to stop it."""
OpenMask = Callable[[Check], Mask | None]
"""Opens the mask from the top; None if every window is scored."""


@dataclass(frozen=True, eq=False)
class PlannedImage:
    """One image, the model that scores it, and how."""

    picture: Picture
    model: StoredModel
    session: Session
    """Runs the model's file that the plan chose."""
    plan: Plan
    options: ResolvedOptions
    open_mask: OpenMask = lambda _: None

    @property
    def is_small(self) -> bool:
        """Whether its pixels are few, and all of its tiles are submitted when it begins."""
        views, asked = self.plan.views, self.options.asked
        if len(views) > 1 or asked.mask is not None or asked.plan_only:
            return False
        pixels = max(self.picture.width * self.picture.height, views[0].width * views[0].height)
        if pixels > SMALL_PIXELS or len(views[0].tile_plan.bands) > 1:
            return False
        return self.plan.mode.submits(views[0].tile_plan, views[0].batch) <= PREFETCH_BATCHES
