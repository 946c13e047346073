"""Slides that the tests write: pyramids in TIFF files of several kinds."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffWriter

MICRONS = 0.25
"""Micrometres of a slide's pixels."""
Pixels = NDArray[np.uint8]


def tissue(height: int, width: int, seed: int = 0) -> Pixels:
    """Return a smooth picture in colours: (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    pixels: Pixels = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    return pixels


def halved(pixels: Pixels) -> Pixels:
    """Return the means of blocks of 2×2 pixels."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    blocks = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    return np.asarray(np.rint(blocks.mean((1, 3))), np.uint8)


def pyramid_of(pixels: Pixels, levels: int) -> list[Pixels]:
    """Return an image and its reduced copies, each half as large as the one before."""
    found = [pixels]
    while len(found) < levels:
        found.append(halved(found[-1]))
    return found


def write_pages(path: Path, levels: list[Pixels], *, reduced: bool = True, description: str = "") -> None:
    """Write levels as pages, with the size of the pixels in the resolution tags unless there is a description."""
    with TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tags = {"description": description} if description else _resolution(MICRONS * 2**number)
            tiff.write(
                level, photometric="rgb", tile=(64, 64), compression="deflate", metadata=None,
                subfiletype=int(reduced and number > 0), **tags,
            )  # fmt: skip


def write_svs(path: Path, levels: list[Pixels]) -> None:
    """Write levels as Aperio's scanners do, for OpenSlide."""
    height, width = levels[0].shape[:2]
    description = f"Aperio Image Library v12\n{width}x{height} (64x64) JPEG/RGB Q=95|AppMag = 40|MPP = {MICRONS}"
    with TiffWriter(path) as tiff:
        for level in levels:
            tiff.write(
                level, photometric="rgb", tile=(64, 64), compression="jpeg", compressionargs={"level": 95},
                metadata=None, description=description,
            )  # fmt: skip


def write_ome(path: Path, levels: list[Pixels]) -> None:
    """Write levels as an OME-TIFF file, whose reduced copies are SubIFDs; its pixels are stated in nanometres."""
    metadata = {
        "axes": "YXS", "PhysicalSizeX": MICRONS * 1e3, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": MICRONS * 1e3,
        "PhysicalSizeYUnit": "nm",
    }  # fmt: skip
    with TiffWriter(path, ome=True) as tiff:
        options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate"}
        tiff.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **options)


def _resolution(microns: float) -> dict[str, object]:
    return {"resolution": (1e4 / microns, 1e4 / microns), "resolutionunit": "CENTIMETER"}
