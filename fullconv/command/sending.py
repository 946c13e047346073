"""How the command sends an image to a server: in one message, or in parts so that its progress can be shown."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fullconv.common.text import printable
from fullconv.description import ModelDescription
from fullconv.encode import scale_message
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
    """Return whether the image, or its answer, exceeds half a message, or the image has many pixels.

    With a resolution, the number of scored pixels depends on the resolution of the file, which is not known here.
    """
    model = describe()
    if isinstance(source, ArraySource):
        size, shape = source.size, source.shape[:2]
    elif image.is_file():
        try:
            size, shape = image.stat().st_size, _shape_of(image)
        except OSError:
            return False  # the attempt to score the image reports the reason
    else:
        return False  # a pipe, which can be read once only
    if "mpp" in options or "magnification" in options:
        return True
    scored = math.prod(shape) * _largest_factor(options, shape) ** 2
    stride = options.get("stride")
    cells = scored / (stride**2 if stride else math.prod(model.stride)) if options.get("grid") else 0
    further = sum(output.values for output in model.output.further)
    answer = 4 * cells * ((len(options.get("classes", ())) or model.output.classes) + further)
    return max(size, answer) > model.limits.message_bytes / 2 or scored > LARGE_PIXELS


def _largest_factor(options: Options, shape: tuple[int, int]) -> float:
    """Return the largest factor by which an image (height, width) is enlarged, at least 1."""
    scales = [scale_message(scale) for scale in options.get("scales", ())]
    side = max(1, min(shape))  # 0: the size is not known
    return max([1.0, *(scale.factor or scale.shorter_side / side for scale in scales)])


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


def _shape_of(path: Path) -> tuple[int, int]:
    """Return height and width in an image's header; zeros if libvips does not know the file. Raises OSError."""
    header = _header_of(path)
    return (0, 0) if header is None else (int(header.height), int(header.width))


def _header_of(path: Path) -> Any:  # noqa: ANN401 (an image of libvips, which has no types)
    """Open an image with libvips without reading pixels; None if libvips does not know the file. Raises OSError."""
    from fullconv.common.libvips import pyvips  # noqa: PLC0415 (only this choice needs libvips)

    with path.open("rb") as file:
        try:
            return pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "")
        except pyvips.Error:
            return None
