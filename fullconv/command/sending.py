"""How the command sends an image to a server: in one message, or in parts so that its progress can be shown."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fullconv.common.text import printable
from fullconv.description import ModelDescription
from fullconv.errors import ImageError, UnavailableError
from fullconv.grid import ImageInfo
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
    further = sum(output.values for output in model.output.further)
    answer = 4 * cells * ((len(options.get("classes", ())) or model.output.classes) + further)
    return max(size, answer) > model.limits.message_bytes / 2 or scored > LARGE_PIXELS


def _largest_factor(options: Options) -> float:
    """Return the largest factor by which the image is enlarged, at least 1."""
    factors = (str(scale) for scale in options.get("scales", ()))
    return max([1.0, *(float(factor[:-1]) for factor in factors if factor.endswith("x"))])


def check_size(image: Path, scored: ImageInfo) -> None:
    """Raise UnavailableError if a server scores another size than a JPEG, PNG or WebP file has.

    Such files hold one image. Without the check a server could fill the disk with the grid of an image that was never
    sent. Raises OSError.
    """
    header = _header_of(image) if image.is_file() else None
    if header is None or header.get("vips-loader").removesuffix("load_source") not in ("jpeg", "png", "webp"):
        return
    if {header.width, header.height} != {scored.width, scored.height}:  # EXIF may turn the image
        raise UnavailableError(
            f"{printable(image.name)}: expected an answer for {header.width}×{header.height} pixels (width×height), "
            f"got an answer for {scored.width}×{scored.height}; the server is faulty"
        )


def _pixels_of(path: Path) -> int:
    """Return the number of pixels in an image's header; 0 if libvips does not know the file. Raises OSError."""
    header = _header_of(path)
    return 0 if header is None else int(header.width * header.height)


def _header_of(path: Path) -> Any:  # noqa: ANN401 (an image of libvips, which has no types)
    """Open an image with libvips without reading pixels; None if libvips does not know the file. Raises OSError."""
    from fullconv.common.libvips import pyvips  # noqa: PLC0415 (only this choice needs libvips)

    with path.open("rb") as file:
        try:
            return pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "")
        except pyvips.Error:
            return None
