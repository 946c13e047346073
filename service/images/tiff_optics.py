"""The size of a TIFF file's pixels on the object.

Files state it in different ways:

OME-TIFF        PhysicalSizeX and PhysicalSizeY of the image that has the page's size, and NominalMagnification
Aperio's .svs   MPP and AppMag in the description
other files     the tags XResolution and YResolution, unless such pixels are too large for a microscope
"""

import re
from collections.abc import Iterator
from html import unescape

from tifffile import TiffFile, TiffPage

from service.images.optics import UNKNOWN, Optics, optics_of
from service.images.tiff_pages import GEO_KEYS

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
MICRONS = {2: 25_400.0, 3: 10_000.0}
"""Micrometres of the values of ResolutionUnit: inch and centimetre."""
UNITS = {"": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Micrometres of the units of OME-XML; without a unit, lengths are micrometres. µ has two codes in Unicode."""
MAX_LETTERS = 1 << 20
"""Length of the longest description that is searched."""
PIXELS, ATTRIBUTE = re.compile(r"<(?:\w+:)?Pixels\b([^<>]*)>"), re.compile(r"\b([A-Za-z]+)\s*=\s*[\"']([^\"']*)[\"']")
OBJECTIVE = re.compile(r"<(?:\w+:)?Objective\b[^<>]*\bNominalMagnification=[\"']([^\"']*)[\"']")
APERIO = "Aperio"
APERIO_FIELD = re.compile(r"\|\s*(MPP|AppMag)\s*=\s*([0-9.]+)")


def optics_of_page(tiff: TiffFile, page: TiffPage) -> Optics:
    """Return what a file states about a page."""
    description = str(tiff.pages.first.description)[:MAX_LETTERS]
    stated = (_ome(description, page), _aperio(description), _resolution(page))
    microns = next((optics.microns_per_pixel for optics in stated if optics.microns_per_pixel), None)
    magnification = next((optics.magnification for optics in stated if optics.magnification), None)
    return Optics(microns, magnification)


def _ome(description: str, page: TiffPage) -> Optics:
    """Return what OME-XML states about the image of the page's size."""
    objective = OBJECTIVE.search(description)
    for pixels in _attributes(description):
        if (pixels.get("SizeX"), pixels.get("SizeY")) == (str(page.imagewidth), str(page.imagelength)):
            across, down = _micrometres(pixels, "PhysicalSizeX"), _micrometres(pixels, "PhysicalSizeY")
            return optics_of(across, down, objective[1] if objective else None)
    return UNKNOWN


def _attributes(description: str) -> Iterator[dict[str, str]]:
    """Yield the attributes of each element Pixels."""
    for element in PIXELS.finditer(description):
        yield {name: unescape(value) for name, value in ATTRIBUTE.findall(element[1])}


def _micrometres(pixels: dict[str, str], name: str) -> float | None:
    try:
        return float(pixels[name]) * UNITS[pixels.get(f"{name}Unit", "")]
    except (KeyError, ValueError):
        return None


def _aperio(description: str) -> Optics:
    if not description.startswith(APERIO):
        return UNKNOWN
    fields = dict(APERIO_FIELD.findall(description))
    return optics_of(fields.get("MPP"), fields.get("MPP"), fields.get("AppMag"))


def _resolution(page: TiffPage) -> Optics:
    unit = MICRONS.get(int(page.tags.valueof(RESOLUTION_UNIT, default=0)))
    if unit is None or GEO_KEYS in page.tags:
        return UNKNOWN
    return optics_of(*(_inverse(page.tags.valueof(tag, default=(0, 1)), unit) for tag in (X_RESOLUTION, Y_RESOLUTION)))


def _inverse(resolution: tuple[int, int], unit: float) -> float | None:
    """Return the size of a pixel from a fraction of pixels in a unit."""
    pixels, units = resolution
    return unit * units / pixels if pixels else None
