"""Encoded images for the tests."""

import numpy as np
import pyvips
from numpy.typing import NDArray


def png(pixels: NDArray[np.generic]) -> bytes:
    """(height, width, channels) or (height, width) as a PNG file."""
    return encode(pixels, ".png")


def encode(pixels: NDArray[np.generic], suffix: str, **options: object) -> bytes:
    """Encode pixels as the file format of that suffix."""
    image = pyvips.Image.new_from_array(pixels)
    if pixels.dtype == np.uint16:
        image = image.copy(interpretation="grey16" if image.bands < 3 else "rgb16")
    data: bytes = image.write_to_buffer(suffix, **options)
    return data


def noise(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels, smooth enough that filters respond differently from place to place."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels), dtype=np.uint8)
    fine = rng.integers(0, 64, (height, width, channels), dtype=np.uint8)
    return (coarse.repeat(4, 0).repeat(4, 1)[:height, :width] * 0.75 + fine).astype(np.uint8)
