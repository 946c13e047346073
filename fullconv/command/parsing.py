"""The parsing of the text of arguments and options: images, classes, bands, regions and scales."""

import math
import re
from pathlib import Path

import typer

from fullconv.command.map_region import MapRegion
from fullconv.encode import scale_message
from fullconv.errors import RequestError

BAND = re.compile("[1-9][0-9]{0,3}")
ROI = re.compile(",".join(f" *(?P<{name}>[0-9]{{1,9}}) *" for name in ("x", "y", "width", "height")))


def image_name(text: str) -> Path:
    """Parse an argument; exit status 2 for an empty name, which as a path would stand for the current folder."""
    if not text:
        raise typer.BadParameter("expected a file, a folder or a pattern, got an empty name")
    return Path(text)


def folder_name(text: str) -> Path:
    """Parse the name of a folder, which need not exist; exit status 2 for an empty name."""
    if not text:
        raise typer.BadParameter("expected a folder, got an empty name")
    return Path(text)


def class_names(classes: str | None) -> list[str]:
    """Parse --classes; exit status 2 for other text."""
    if classes is None:
        return []
    names = [name.strip() for name in classes.split(",")]
    if "" in names:
        raise typer.BadParameter(
            f"expected labels or indices, separated by commas, got '{classes}'", param_hint="--classes"
        )
    return names


def band_numbers(bands: str) -> list[int]:
    """Parse --bands; exit status 2 for other text."""
    numbers = [number.strip() for number in bands.split(",")]
    if not all(BAND.fullmatch(number) for number in numbers):
        raise typer.BadParameter(
            f"expected numbers from 1, separated by commas, such as 1,2,3; got '{bands}'", param_hint="--bands"
        )
    return [int(number) for number in numbers]


def region(roi: str) -> tuple[int, int, int, int]:
    """Parse --roi; exit status 2 for other text."""
    match = ROI.fullmatch(roi)
    if not match or not int(match["width"]) or not int(match["height"]):
        raise typer.BadParameter(f"expected x,y,width,height in pixels, got '{roi}'", param_hint="--roi")
    return int(match["x"]), int(match["y"]), int(match["width"]), int(match["height"])


def map_region(roi: str, crs: str) -> MapRegion:
    """Parse --roi in coordinates of a map; exit status 2 for other text."""
    try:
        x, y, width, height = map(float, roi.split(","))
    except ValueError:
        x = y = width = height = math.nan
    edges = (x, y, x + width, y + height)
    if not (width > 0 and height > 0 and all(map(math.isfinite, edges))):
        raise typer.BadParameter(
            f"expected x,y,width,height in units of --roi-crs, where x and y are the smallest, got '{roi}'",
            param_hint="--roi",
        )
    return MapRegion(edges, crs)


def scale_names(scales: str | None) -> list[str]:
    """Parse --scales; exit status 2 for other text."""
    names = [] if scales is None else [name.strip() for name in scales.split(",")]
    try:
        for name in names:
            scale_message(name)
    except RequestError as error:
        raise typer.BadParameter(str(error).removeprefix("scales: "), param_hint="--scales") from None
    return names
