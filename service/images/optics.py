"""How large the object is on an image, as microscopes and scanners state it in their files."""

from dataclasses import dataclass

MAX_MICRONS = 20.0
"""Largest size of a pixel, in micrometres, of an image that counts as one of a microscope. Photographs and documents
state larger sizes, which say how they are printed."""

LEAST = 1e-6
"""Sizes and magnifications that are smaller, or larger than the inverse, are damaged numbers."""


@dataclass(frozen=True)
class Optics:
    """What a file states about the size of its pixels on the object."""

    microns_per_pixel: tuple[float, float] | None = None
    """Size of a pixel in micrometres, vertical before horizontal. None: not stated."""
    magnification: float | None = None
    """Magnification of the objective. None: not stated."""


UNKNOWN = Optics()
"""The file states nothing."""


def optics_of(horizontal: object, vertical: object, magnification: object = None) -> Optics:
    """Return what a file states as numbers or texts; values that no microscope has are left out."""
    x, y, power = (_number(value) for value in (horizontal, vertical, magnification))
    if x is None or y is None or max(x, y) > MAX_MICRONS:
        return Optics(None, power)
    return Optics((y, x), power)


def _number(value: object) -> float | None:
    """Return a number between LEAST and its inverse; None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if LEAST < number < 1 / LEAST else None
