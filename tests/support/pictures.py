"""Random pixels and encoded images for the tests."""

from functools import cache

import numpy as np
import pyvips
from numpy.typing import NDArray

from fullconv.protos import model_pb2
from service.images.encoded import open_bytes
from service.images.picture import Picture


def png(pixels: NDArray[np.generic]) -> bytes:
    """Encode pixels (height, width, channels) or (height, width) as a PNG file."""
    return encode(pixels, ".png")


def encode(pixels: NDArray[np.generic], suffix: str, **options: object) -> bytes:
    """Encode pixels in the format of a suffix such as ".tif"; `options` are those of libvips."""
    image = pyvips.Image.new_from_array(pixels)
    if pixels.dtype == np.uint16:
        image = image.copy(interpretation="grey16" if image.bands < 3 else "rgb16")
    data: bytes = image.write_to_buffer(suffix, **options)
    return data


@cache
def bomb() -> bytes:
    """Return a PNG file of 3,600 megapixels that is smaller than 1 MiB."""
    data: bytes = pyvips.Image.black(60_000, 60_000).write_to_buffer(".png", compression=9, bitdepth=1)
    return data


def noise(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random pixels (height, width, channels), smooth enough that filters respond differently at each place."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels), dtype=np.uint8)
    fine = rng.integers(0, 64, (height, width, channels), dtype=np.uint8)
    return (coarse.repeat(4, 0).repeat(4, 1)[:height, :width] * 0.75 + fine).astype(np.uint8)


def opened(data: bytes) -> Picture:
    """Open an encoded image."""
    return open_bytes(data, name="image")


def pixels_of(picture: Picture, model_input: model_pb2.Input) -> np.ndarray:
    """Return all pixels of an image."""
    return picture.rows(model_input).read(0, picture.height)
