"""What decoding costs a request: how often its image is decoded, and what the decoders hold."""

import math

import numpy as np

from fullconv.protos import model_pb2
from service.images.areas import WINDOW_SECONDS
from service.images.decoding import STEP_PIXELS, DecodingRates
from service.images.mask import thumbnail_size
from service.images.picture import Picture
from service.scoring.options import OTSU, ResolvedOptions
from service.scoring.plan import Plan
from service.scoring.planned import PlannedDecoding

KEPT_BYTES = 1 << 30
"""Bytes of the pixels of the largest image that is kept, if it is scored at several sizes."""
CONVERSION_BYTES = 12
"""Bytes for each sample of the rows that are converted together."""


def plan_decoding(
    picture: Picture,
    mask: Picture | None,
    plan: Plan,
    options: ResolvedOptions,
    model_input: model_pb2.Input,
    rates: DecodingRates,
) -> PlannedDecoding:
    """Return what decoding an image, and its mask image, costs, and finding the windows inside areas.

    An image that is scored at several sizes is decoded once, if its pixels fit KEPT_BYTES and all of it is scored.
    Otherwise, or if the file has reduced copies, the image is decoded for each size. Masks are decoded for each size.
    """
    views, requested = len(plan.views), options.requested
    pixel_bytes = math.prod(picture.size) * model_input.channels * np.dtype(model_input.dtype).itemsize
    may_be_kept = views > 1 and picture.cost.seconds > 0 and not picture.copies
    keeps = may_be_kept and pixel_bytes <= KEPT_BYTES and requested.region is None
    region = requested.region
    share = 1.0 if region is None else min(1.0, (region.y + region.height) / picture.height)
    sizes = [(view.height, view.width) for view in plan.views[: 1 if keeps else views]]
    passes = [(picture.copy_for(size).cost, share) for size in sizes]
    if requested.mask == OTSU:
        passes.append((picture.copy_for(thumbnail_size(picture)).cost, 1.0))
    has_data_mask = picture.open_data_mask is not None
    passes.append((picture.cost, share * views * has_data_mask))
    held = (1 + has_data_mask) * picture.cost.held_bytes + pixel_bytes * keeps
    held += min(STEP_PIXELS, math.prod(picture.size)) * picture.layout.bands * CONVERSION_BYTES
    costs = passes
    if mask is not None:
        held += mask.cost.held_bytes
        costs = [*passes, (mask.cost, views)]
    selecting = requested.areas * WINDOW_SECONDS * sum(view.tile_plan.cells for view in plan.views)
    seconds = selecting + sum(times * rates.seconds(cost) for cost, times in costs)
    nominal = selecting + sum(times * cost.seconds for cost, times in costs)
    own = sum(times * cost.seconds for cost, times in passes) / (picture.cost.seconds or 1.0)
    return PlannedDecoding(held, seconds, nominal, own, keeps)
