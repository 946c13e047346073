"""Truncated and damaged image files are refused with the place of the damage, and never filled in."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import pyvips
from support.pictures import encode, noise, opened, pixels_of

from fullconv.protos import model_pb2
from service.errors import ImageError
from service.images.defects import defect_of

RGB = model_pb2.Input(channels=3, dtype="uint8")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_truncated_files_are_refused(suffix: str) -> None:
    """A file that ends early is refused; the missing pixels are not filled in."""
    data = encode(noise(200, 200, 3), suffix)
    for size in (len(data) * 2 // 3, 40, 14):
        with pytest.raises(ImageError, match=r"a complete \w+ file, got a truncated file: it .*; copy the file again"):
            pixels_of(opened(data[:size]), RGB)


@pytest.mark.parametrize(
    ("suffix", "at", "new", "found"),
    [
        (".png", 8, b"\0\0\0\x0dI\1DR", "there is no chunk at byte 8"),
        (".png", 300, b"\0\0\0\0", "the checksum of the chunk IDAT at byte "),
        (".webp", 30, bytes(200), "that cannot be decoded"),
    ],
)
def test_damaged_files_are_refused(suffix: str, at: int, new: bytes, found: str) -> None:
    """A file with damage in its structure is refused, and the error says where the damage is."""
    data = bytearray(encode(noise(200, 200, 3), suffix))
    data[at : at + len(new)] = new
    with pytest.raises(ImageError, match=found):
        pixels_of(opened(bytes(data)), RGB)


@pytest.mark.parametrize("options", [{}, {"interlace": True}], ids=["baseline", "progressive"])
def test_damaged_pixels_of_a_jpeg_file_are_refused(options: dict[str, bool]) -> None:
    """A JPEG file that ends early and has a marker for its end is refused; the missing pixels are not filled in."""
    whole = encode(noise(200, 200, 3), ".jpg", **options)
    with pytest.raises(ImageError, match="a damaged file that cannot be decoded"):
        pixels_of(opened(whole[: len(whole) // 2] + b"\xff\xd9"), RGB)


@pytest.mark.parametrize(
    ("at", "new"),
    [(2, b"\xff\xe1\x00\x0eExif\0\0" + bytes(6)), (-2, b"\0\x12" * 50), (None, b"end" * 9)],
    ids=["Exif", "before the end", "after the end"],
)
def test_foreign_bytes_in_a_jpeg_file_are_no_damage(at: int | None, new: bytes) -> None:
    """Bytes beside the pixels, such as some cameras write, change nothing."""
    whole = encode(noise(200, 200, 3), ".jpg")
    place = len(whole) if at is None else at % len(whole)
    changed = whole[:place] + new + whole[place:]
    np.testing.assert_array_equal(pixels_of(opened(changed), RGB), pixels_of(opened(whole), RGB))


def test_damage_within_the_header_of_a_jpeg_file() -> None:
    """The words for a JPEG file that libvips cannot decode say where its segments end."""
    whole = encode(noise(20, 20, 3), ".jpg")
    broken = BytesIO(whole[:2] + b"\0\0\0\4" + whole[2:])
    assert defect_of(broken).startswith("a damaged file: there is no segment at byte 2")
    assert defect_of(BytesIO(whole)).startswith("a damaged file that cannot be decoded; copy")


DAMAGED = """
import gc, sys
from fullconv.common.libvips import pyvips

file = sys.stdin.buffer.read()

def read():
    image = pyvips.Image.new_from_buffer(file, "", access="sequential", fail_on="none")
    try:
        pyvips.Region.new(image).fetch(0, 0, image.width, image.height)
    except pyvips.Error:
        pass
    return image

gc.disable()
cycle = [read()]
cycle.append(cycle)
last = read()
del cycle
gc.enable()
gc.set_threshold(1)
del last
"""
"""A program that frees a damaged image while another damaged image waits for the garbage collector."""


def test_warnings_within_warnings() -> None:
    """Damaged images that are freed at the same time neither end the process nor print anything."""
    file = bytearray(pyvips.Image.black(64, 64).jpegsave_buffer())
    file[-20:] = b"\xff\xd9" * 10
    ended = subprocess.run([sys.executable, "-c", DAMAGED], input=bytes(file), capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
