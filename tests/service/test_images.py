"""Pixels as a model wants them, from files as people have them."""

from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.testing import assert_allclose, assert_array_equal
from pictures import encode, noise, png

from protos import model_pb2
from service.errors import ImageError, LimitError
from service.images.picture import Picture, open_bytes, open_file

RGB = model_pb2.Input(channels=3, dtype="uint8")
GREY = model_pb2.Input(channels=1, dtype="uint8")
FLOAT = model_pb2.Input(channels=3, dtype="float32")
WINDOW = model_pb2.Size(height=8, width=8)
LUMA = np.array([0.299, 0.587, 0.114])


def opened(data: bytes) -> Picture:
    return open_bytes(data, name="image")


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        (".png", {}, 0),
        (".tif", {}, 0),
        (".tif", {"tile": True, "compression": "deflate"}, 0),
        (".webp", {"lossless": True}, 0),
        (".webp", {"Q": 95}, 20),
        (".jpg", {"Q": 95}, 12),
    ],
    ids=["png", "tiff", "tiled-tiff", "webp-lossless", "webp", "jpeg"],
)
def test_formats(suffix: str, options: dict[str, object], tolerance: int) -> None:
    """JPEG, PNG, WebP and TIFF decode to the pixels that were written."""
    pixels = noise(40, 30, 3)
    picture = opened(encode(pixels, suffix, **options))
    assert (picture.width, picture.height) == (30, 40)
    assert np.abs(pixels.astype(int) - picture.pixels(RGB)).mean() <= tolerance


def test_grey_is_replicated() -> None:
    """A grey image has the same values in every channel of an RGB model."""
    pixels = noise(20, 20, 1)
    assert_array_equal(pixels.repeat(3, axis=2), opened(png(pixels)).pixels(RGB))


def test_colour_becomes_luma() -> None:
    """An RGB image becomes ITU-R BT.601 luma for a grey model."""
    pixels = noise(20, 20, 3)
    assert_array_equal(np.rint(pixels @ LUMA), opened(png(pixels)).pixels(GREY)[..., 0])


@pytest.mark.parametrize("channels", [2, 4], ids=["grey-alpha", "rgb-alpha"])
def test_alpha_is_laid_over_white(channels: int) -> None:
    """Transparent pixels are white, half transparent ones half as far from it."""
    pixels = np.zeros((10, 10, channels), np.uint8)
    pixels[:5, :, -1] = 255
    pixels[5, :, -1] = 128
    got = opened(png(pixels)).pixels(RGB)
    assert_array_equal([0, 0, 0], got[0, 0])
    assert_allclose(got[5, 0], 127, atol=1)
    assert_array_equal([255, 255, 255], got[9, 0])


def test_16_bits_are_rounded() -> None:
    """16-bit values become round(v / 257)."""
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert_array_equal(np.rint(pixels / 257), opened(png(pixels)).pixels(GREY)[..., 0])


def test_16_bits_for_float_models_keep_their_fraction() -> None:
    """A model that takes float32 gets v / 257."""
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert_allclose(opened(png(pixels)).pixels(FLOAT)[..., 1], pixels / np.float32(257), rtol=1e-6)


def test_cmyk_goes_through_its_profile() -> None:
    """Pure black ink on a CMYK image is dark, none of any is white."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :, 3] = 255
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="cmyk")
    got = opened(image.write_to_buffer(".tif")).pixels(RGB)
    assert got[0, 0].max() < 60
    assert got[15, 15].min() > 250


def test_exif_rotation() -> None:
    """An image that EXIF turns by 90° is scored as it is looked at."""
    pixels = noise(20, 30, 3)
    image = pyvips.Image.new_from_array(pixels)
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    picture = opened(image.write_to_buffer(".tif"))
    assert (picture.width, picture.height) == (20, 30)
    assert_array_equal(np.rot90(pixels, -1), picture.pixels(RGB))


def test_names_beyond_ascii(tmp_path: Path) -> None:
    """A file's name may be in any script."""
    path = tmp_path / "Übersicht 图像.png"
    path.write_bytes(png(noise(20, 20, 3)))
    assert open_file(path).name == "Übersicht 图像.png"


@pytest.mark.parametrize("data", [b"", b"not an image", b"GIF89a" + bytes(100)], ids=["empty", "text", "gif"])
def test_other_files_are_refused(data: bytes) -> None:
    """What is none of the four formats is named as such."""
    with pytest.raises(ImageError, match="image: not a whole JPEG, PNG, WebP or TIFF image"):
        opened(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_truncated_files_are_refused(suffix: str) -> None:
    """A file that ends early is refused, not filled up."""
    data = encode(noise(200, 200, 3), suffix)
    with pytest.raises(ImageError, match="not a whole"):
        opened(data[: len(data) * 2 // 3]).pixels(RGB)


@pytest.mark.parametrize("format_", ["float", "short", "int"])
def test_other_element_types_are_refused(format_: str) -> None:
    """Only 8 and 16 bits unsigned have a meaning as 0 to white."""
    data = pyvips.Image.new_from_array(noise(20, 20, 1)).cast(format_).write_to_buffer(".tif")
    with pytest.raises(ImageError, match=f"expected 8 or 16 bits unsigned per channel, got 1 bands of {format_}"):
        opened(data).check(max_pixels=10**6, window=WINDOW, wanted=RGB)


def test_too_many_bands_are_refused() -> None:
    """A seven-band image does not become RGB by itself."""
    data = pyvips.Image.new_from_array(noise(20, 20, 7)).copy(interpretation="multiband").write_to_buffer(".tif")
    with pytest.raises(ImageError, match="expected 1 or 3 bands"):
        opened(data).check(max_pixels=10**6, window=WINDOW, wanted=RGB)


def test_models_of_other_channels_take_as_many_bands() -> None:
    """A four-channel model takes four bands as they are, and nothing else."""
    four = model_pb2.Input(channels=4, dtype="uint8")
    pixels = noise(20, 20, 4)
    assert_array_equal(pixels, opened(encode(pixels, ".tif")).pixels(four))
    for channels in (1, 3):
        with pytest.raises(ImageError, match=f"expected the model's 4 bands, got {channels} bands"):
            opened(png(noise(20, 20, channels))).check(max_pixels=10**6, window=WINDOW, wanted=four)


def test_small_images_are_refused() -> None:
    """An image below the window says both sizes."""
    with pytest.raises(ImageError, match="expected at least the model's window of 8×8 pixels, got 30×7"):
        opened(png(noise(7, 30, 3))).check(max_pixels=10**6, window=WINDOW, wanted=RGB)


def test_bombs_are_refused_undecoded() -> None:
    """A tiny PNG that says 60000×60000 is refused on its header."""
    bomb = pyvips.Image.black(60_000, 60_000).write_to_buffer(".png", compression=9, bitdepth=1)
    assert len(bomb) < 1 << 20
    with pytest.raises(LimitError, match="60000×60000 is 3600 megapixels, expected at most 256"):
        opened(bomb).check(max_pixels=256_000_000, window=WINDOW, wanted=RGB)
