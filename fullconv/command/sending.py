"""How the command sends an image to a server: in one message, or in parts so that its progress can be shown."""

import math
from collections.abc import Callable
from pathlib import Path

from fullconv.description import ModelDescription
from fullconv.errors import ImageError
from fullconv.images import ArraySource, ImageSource, source_of
from fullconv.options import Options

LARGE_PIXELS = 64_000_000
"""Images with more pixels are sent in parts."""

Describe = Callable[[], ModelDescription]
"""Describes the model that scores the image."""


def fits_message(image: Path, options: Options, describe: Describe) -> bool:
    """Return whether an image is a file that fits one message, so that one call can carry it with other images."""
    try:
        source = source_of(image)
    except ImageError:
        return False  # the attempt to score the image reports the reason
    return not isinstance(source, ArraySource) and not _is_large(image, source, options, describe)


def goes_in_parts(image: Path, options: Options, describe: Describe) -> bool:
    """Return whether an image is sent in parts: if it is large, or an array whose pixels are needed only once.

    Raises ImageError if the image is a file of an array and cannot be opened.
    """
    source = source_of(image)
    once = len(options.get("scales", ())) <= 1 and options.get("mask") != "otsu"
    return (isinstance(source, ArraySource) and once) or _is_large(image, source, options, describe)


def _is_large(image: Path, source: ImageSource, options: Options, describe: Describe) -> bool:
    """Return whether the image, or its answer, exceeds half a message, or the image has many pixels."""
    model = describe()
    if isinstance(source, ArraySource):
        size, pixels = source.size, math.prod(source.shape[:2])
    elif image.is_file():
        try:
            size, pixels = image.stat().st_size, _pixels_of(image)
        except OSError:
            return False  # the attempt to score the image reports the reason
    else:
        return False  # a pipe, which can be read once only
    scored = pixels * _largest_factor(options) ** 2
    stride = options.get("stride")
    cells = scored / (stride**2 if stride else math.prod(model.stride)) if options.get("grid") else 0
    answer = 4 * cells * (len(options.get("classes", ())) or model.output.classes)
    return max(size, answer) > model.limits.message_bytes / 2 or scored > LARGE_PIXELS


def _largest_factor(options: Options) -> float:
    """Return the largest factor by which the image is enlarged, at least 1."""
    factors = (str(scale) for scale in options.get("scales", ()))
    return max([1.0, *(float(factor[:-1]) for factor in factors if factor.endswith("x"))])


def _pixels_of(path: Path) -> int:
    """Return the number of pixels in an image's header; 0 if libvips does not know the file. Raises OSError."""
    from fullconv.common.libvips import pyvips  # noqa: PLC0415 (only this choice needs libvips)

    with path.open("rb") as file:
        try:
            image = pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "")
        except pyvips.Error:
            return 0
    return int(image.width * image.height)
