"""The size at which an image is scored, from the requested resolution and from what the file states."""

from dataclasses import dataclass

from service.errors import ImageError
from service.images.picture import Picture
from service.scoring.options import Resolution

MICRONS_AT_1 = 10.0
"""Micrometres of a pixel at magnification 1, as slide scanners understand it: a pixel at 40 has 0.25 micrometres."""


@dataclass(frozen=True)
class ScoredSize:
    """The size of the image at a resolution."""

    size: tuple[int, int]
    """Height and width in pixels."""
    note: str = ""
    """What the caller should know about it; empty if there is nothing to say."""


def scored_size(picture: Picture, requested: Resolution, trained_microns: float) -> ScoredSize:
    """Return the size at which an image is scored.

    `trained_microns` are the micrometres per pixel of the images that the model was trained on; 0 if it does not say.
    Raises ImageError if the file does not state what the requested resolution needs.
    """
    if requested.level is not None:
        return ScoredSize(_level(picture, requested.level))
    if requested.microns_per_pixel is not None:
        return _at_microns(picture, "mpp", requested.microns_per_pixel)
    if requested.magnification is not None:
        return _at_magnification(picture, requested.magnification)
    if trained_microns and picture.optics.microns_per_pixel:
        return _as_trained(picture, trained_microns)
    return ScoredSize(picture.size)


def _level(picture: Picture, level: int) -> tuple[int, int]:
    sizes = [picture.size, *(copy.size for copy in picture.copies)]
    if level >= len(sizes):
        known = ", ".join(f"{number} ({height}×{width})" for number, (height, width) in enumerate(sizes))
        raise ImageError(f"{picture.name}: level: expected one of the file's levels, {known}, got {level}")
    return sizes[level]


def _as_trained(picture: Picture, microns: float) -> ScoredSize:
    scored = _at_microns(picture, "mpp", microns)
    if scored.size == picture.size or scored.note:
        return scored
    own = max(picture.optics.microns_per_pixel or ())
    note = f"scored at {microns:g} micrometres per pixel, as the model was trained; the image has {own:g}"
    return ScoredSize(scored.size, note)


def _at_magnification(picture: Picture, magnification: float) -> ScoredSize:
    own = picture.optics.magnification
    if own is None:
        return _at_microns(picture, "magnification", MICRONS_AT_1 / magnification)
    return _scaled(picture, (magnification / own,) * 2, f"its own magnification of {own:g}")


def _at_microns(picture: Picture, field: str, microns: float) -> ScoredSize:
    own = picture.optics.microns_per_pixel
    if own is None:
        raise ImageError(
            f"{picture.name}: {field}: expected an image that states the size of its pixels in micrometres, got none; "
            "use scales with a factor instead (in the command --scales 0.5x)"
        )
    return _scaled(picture, (own[0] / microns, own[1] / microns), f"its own {max(own):g} micrometres per pixel")


def _scaled(picture: Picture, factors: tuple[float, float], own: str) -> ScoredSize:
    """Return the size after scaling by the factors; an enlarged image gets a note."""
    height, width = (round(side * factor) for side, factor in zip(picture.size, factors, strict=True))
    is_enlarged = height > picture.height or width > picture.width
    note = f"the image was enlarged {max(factors):.3g} times, beyond {own}" if is_enlarged else ""
    return ScoredSize((height, width), note)
