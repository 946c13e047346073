"""The user's images, `--images`: those that can be read are measured, the others are named and left out.

The images are read in random order before the long work begins, until CHECKED_PIXELS pixels are read; more would hardly
change a measurement. Later steps use only images that were read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.errors import SourceError
from converter.progress import SILENT, Progress
from converter.verify.images import PixelFormat, SampleImage, holds_window, image_files, sample_image
from fullconv.common.text import counted

SEED = 5
CHECKED_PIXELS = 1 << 30
"""Number of pixels after which no more images are read: 20,000 windows of 224×224 pixels, or 64 large photographs."""
WHOLE_PIXELS = 1 << 24
"""Largest number of pixels of an image that is read completely. Of a larger image only the last row is read, which is
missing if the file is truncated."""
SHOWN = 5
"""Number of unreadable images that are named."""
OPTION = "images: "
"""Prefix of each reason."""


@dataclass(frozen=True)
class GivenImages:
    """The images of a folder, in the order of their names.

    `readable` are the images that were read; `usable` are those of them that hold a window. `unreadable` are the
    reasons why other images cannot be read, one line for each.
    """

    readable: Sequence[SampleImage]
    usable: Sequence[SampleImage]
    unreadable: Sequence[str] = ()

    @property
    def smaller(self) -> int:
        """Number of readable images that are smaller than a window."""
        return len(self.readable) - len(self.usable)


def shown_reasons(reasons: Sequence[str]) -> list[str]:
    """Return a line for each of the first images that cannot be read, and one for the number of the others."""
    more = len(reasons) - SHOWN
    shown = [*reasons[:SHOWN], *([f"{OPTION}{more} more cannot be read"] if more > 0 else [])]
    return [f"{reason}; left out" for reason in shown]


def given_images(
    folder: Path, pixel_format: PixelFormat, window: tuple[int, int], progress: Progress = SILENT
) -> GivenImages:
    """Return the images of a folder that can be read; `window` is (height, width) in pixels.

    Warns of images that cannot be read. Raises SourceError if no image can be read, or if no image holds a window.
    """
    found, reasons = _read_files(image_files(folder), pixel_format, window, progress)
    if not found:
        raise SourceError(reasons[0] if len(reasons) == 1 else _nothing_readable(folder, reasons))
    for line in shown_reasons(reasons):
        progress.warn(line)
    usable = [image for image in found if holds_window(image, window)]
    if not usable:
        raise SourceError(
            f"images: {folder}: expected an image of at least {window[1]}×{window[0]} pixels, the window's size, got "
            f"{counted(len(found), 'smaller image')}; images are not enlarged: use larger images, or leave --images out"
        )
    return GivenImages(found, usable, reasons)


def _read_files(
    files: Sequence[Path], pixel_format: PixelFormat, window: tuple[int, int], progress: Progress
) -> tuple[list[SampleImage], list[str]]:
    """Read files until there are enough pixels of images that hold a window; returns images and reasons by name."""
    progress.step("reading the images", len(files))
    found, reasons, left = dict[Path, SampleImage](), dict[Path, str](), CHECKED_PIXELS
    for number in np.random.default_rng(SEED).permutation(len(files)):
        file = files[number]
        try:
            image = sample_image(file, pixel_format)
            pixels = _read(image)
            found[file] = image
            left -= pixels if holds_window(image, window) else 0
        except SourceError as error:
            reasons[file] = str(error)
        progress.advance()
        if left <= 0:
            break
    return [found[file] for file in sorted(found)], [reasons[file] for file in sorted(reasons)]


def _read(image: SampleImage) -> int:
    """Read an image, or its last row if it is large; returns the number of pixels that count. Raises SourceError."""
    height, width = image.size
    is_large = height * width > WHOLE_PIXELS
    image.read(slice(height - 1 if is_large else 0, height), slice(0, width))
    return min(height * width, WHOLE_PIXELS)


def _nothing_readable(folder: Path, reasons: Sequence[str]) -> str:
    """Return the message of the error for several images of which none can be read."""
    first = reasons[0].removeprefix(OPTION)
    return (
        f"{OPTION}{folder}: expected at least one image that can be read, got {len(reasons)} that cannot; the first: "
        f"{first}; use other images, or leave --images out"
    )
