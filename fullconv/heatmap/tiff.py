"""The heatmap as a TIFF file, which viewers of slides open beside the image.

The file has the pixel coordinates of the image, tiles, and levels of half the size, a quarter and so on. libvips
computes the pixels while it writes them, so that a large picture is never held whole. The smaller levels wait in
memory, compressed, until the largest is written: about a quarter of the size of the file.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tifffile import TiffFile

from fullconv.common.files import OutputError
from fullconv.common.libvips import pyvips, reason_of

TILE = 256
"""Side of a tile in pixels."""
QUALITY = 85
"""Quality of JPEG tiles, 0 to 100. From 90 on, libvips stores the grey image three times, as red, green and blue."""
BIG_BYTES = 1 << 32
"""Size of the pixels from which the file has the form for large files, BigTIFF."""
NO_UNIT = 1
"""The value of the tag ResolutionUnit for a resolution that is not known."""
REPORT_SECONDS = 0.1
"""Time between two reports of progress, and longest time until a signal is noticed."""

Progress = Callable[[int, int], None]
"""Takes the amount that is done, and the total amount."""


def write_tiff(
    file: BinaryIO, path: Path, picture: pyvips.Image, resolution: tuple[float, float] | None, progress: Progress
) -> None:
    """Write a picture into an open file; `resolution` is in pixels per millimetre, None if it is not known.

    Tiles of a picture with opacity are compressed without loss, others by JPEG, which few readers know with opacity.
    Raises OutputError, which names the file `path`, and what `progress` raises.
    """
    coding = {"compression": "deflate"} if picture.hasalpha() else {"compression": "jpeg", "Q": QUALITY}
    x, y = resolution or (1.0, 1.0)
    descriptor = os.open(file.name, os.O_RDWR)  # libvips also reads what it has written
    save = partial(
        picture.tiffsave_target, pyvips.Target.new_to_descriptor(descriptor), tile=True, tile_width=TILE,
        tile_height=TILE, pyramid=True, bigtiff=4 * picture.width * picture.height * picture.bands / 3 >= BIG_BYTES,
        xres=x, yres=y, resunit="cm", keep="none", **coding,
    )  # fmt: skip
    try:
        _run(save, picture, progress)
    except pyvips.Error as error:
        raise OutputError(f"{path}: cannot be written: {reason_of(error)}") from None
    finally:
        os.close(descriptor)
    if resolution is None:
        with TiffFile(file.name, mode="r+b") as written:  # libvips always writes a unit
            for page in written.pages:
                page.tags["ResolutionUnit"].overwrite(NO_UNIT)


def pyramid_pixels(size: tuple[int, int]) -> int:
    """Return the number of pixels of a picture of (width, height) pixels and of its smaller levels."""
    width, height = size
    pixels = width * height
    while max(width, height) > TILE:
        width, height = max(1, width // 2), max(1, height // 2)
        pixels += width * height
    return pixels


def _run(save: Callable[[], None], picture: pyvips.Image, progress: Progress) -> None:
    """Save a picture in another thread, and report percents; an exception of `progress`, or a signal, stops it.

    In this thread libvips would delay signals until the picture is saved.
    """
    percent = 0

    def note(_: pyvips.Image, state: pyvips.GObject) -> None:
        nonlocal percent
        percent = state.percent

    picture.set_progress(True)
    picture.signal_connect("eval", note)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(save)
        try:
            progress(percent, 100)
            while not wait([saving], REPORT_SECONDS).done:
                progress(percent, 100)
        except BaseException:
            picture.set_kill(True)
            raise
        saving.result()
