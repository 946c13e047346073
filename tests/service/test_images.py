"""Images in all supported formats become the pixels that a model takes."""

import gc
import os
import weakref
from contextlib import nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support.pictures import bomb, encode, noise, opened, pixels_of, png

import fullconv
from fullconv.common import special_files
from fullconv.encode import image_message
from fullconv.images import FileSource
from fullconv.protos import model_pb2
from service.errors import ImageError, LimitError
from service.images.arrays import ArrayInMemory, open_array
from service.images.encoded import open_bytes, open_file
from service.images.picture import Picture, check_size
from service.images.rows import ScaledRows, read_strips

RGB = model_pb2.Input(channels=3, dtype="uint8")
GREY = model_pb2.Input(channels=1, dtype="uint8")
FLOAT = model_pb2.Input(channels=3, dtype="float32")
WINDOW = model_pb2.Size(height=8, width=8)
LUMA = np.array([0.299, 0.587, 0.114])


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
    assert np.abs(pixels.astype(int) - pixels_of(picture, RGB)).mean() <= tolerance


def test_grey_is_replicated() -> None:
    """A grey image has the same values in every channel of an RGB model."""
    pixels = noise(20, 20, 1)
    assert_array_equal(pixels.repeat(3, axis=2), pixels_of(opened(png(pixels)), RGB))


def test_colour_becomes_luma() -> None:
    """An RGB image becomes ITU-R BT.601 luma for a grey model."""
    pixels = noise(20, 20, 3)
    assert_array_equal(np.rint(pixels @ LUMA), pixels_of(opened(png(pixels)), GREY)[..., 0])


@pytest.mark.parametrize("channels", [2, 4], ids=["grey-alpha", "rgb-alpha"])
def test_alpha_is_laid_over_white(channels: int) -> None:
    """A transparent pixel becomes white, and a half-transparent black pixel becomes medium grey."""
    pixels = np.zeros((10, 10, channels), np.uint8)
    pixels[:5, :, -1] = 255
    pixels[5, :, -1] = 128
    got = pixels_of(opened(png(pixels)), RGB)
    assert_array_equal([0, 0, 0], got[0, 0])
    assert_allclose(got[5, 0], 127, atol=1)
    assert_array_equal([255, 255, 255], got[9, 0])


def test_16_bits_are_rounded() -> None:
    """16-bit values become round(v / 257)."""
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert_array_equal(np.rint(pixels / 257), pixels_of(opened(png(pixels)), GREY)[..., 0])


def test_16_bits_for_float_models_keep_their_fraction() -> None:
    """A model that takes float32 gets v / 257."""
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert_allclose(pixels_of(opened(png(pixels)), FLOAT)[..., 1], pixels / np.float32(257), rtol=1e-6)


def test_cmyk_goes_through_its_profile() -> None:
    """Pixels with only black ink become dark, and pixels without ink become white."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :, 3] = 255
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="cmyk")
    got = pixels_of(opened(image.write_to_buffer(".tif")), RGB)
    assert got[0, 0].max() < 60
    assert got[15, 15].min() > 250


def test_exif_rotation() -> None:
    """An image that EXIF rotates by 90° is scored after the rotation."""
    pixels = noise(20, 30, 3)
    image = pyvips.Image.new_from_array(pixels)
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    picture = opened(image.write_to_buffer(".tif"))
    assert (picture.width, picture.height) == (20, 30)
    assert_array_equal(np.rot90(pixels, -1), pixels_of(picture, RGB))


def test_names_beyond_ascii(tmp_path: Path) -> None:
    """A file's name may be in any script."""
    path = tmp_path / "Übersicht 图像.png"
    path.write_bytes(png(noise(20, 20, 3)))
    assert open_file(path).name == "Übersicht 图像.png"


def test_pipes_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is an image if it has at most the limit of bytes, and is refused beyond; a device is refused unread."""
    data = png(noise(20, 20, 3))
    path = tmp_path / "pipe.png"
    os.mkfifo(path)

    def opened_pipe() -> Picture:
        writer = Thread(target=path.write_bytes, args=[data])
        writer.start()
        try:
            return open_file(path)
        finally:
            writer.join()

    monkeypatch.setattr(special_files, "MAX_PIPE_BYTES", len(data))
    assert opened_pipe().width == 20
    monkeypatch.setattr(special_files, "MAX_PIPE_BYTES", len(data) - 1)
    with pytest.raises(LimitError, match=r"pipe.png: expected at most 0 MiB from a pipe, got more: write the image to"):
        opened_pipe()
    with pytest.raises(ImageError, match=r"^zero: expected a file or a pipe, got a character device$"):
        open_file(Path("/dev/zero"))
    with pytest.raises(fullconv.ImageError, match=r"^zero: expected a file or a pipe, got a character device$"):
        image_message(FileSource(Path("/dev/zero")))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file; copy the file again from a complete original"),
        (b"\n not an image\nat all", "text that begins with 'not an image'; check that the file is an image"),
        ("\ufeffÜber 図".encode() + b"\n" * 40, "text that begins with 'Über 図'"),
        ("図".encode() * 30, "text that begins with '図図"),
        (bytes(100), "the first bytes 00 00 00 00 00 00 00 00; check"),
        (b"a\x1b[31m red", "the first bytes 61 1b 5b 33 31 6d 20 72; check"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "the first bytes 52 49 46 46 10 00 00 00; check"),
    ],
    ids=["empty", "text", "text with a mark", "cut letter", "zeros", "escape", "sound"],
)
def test_other_files_are_refused(data: bytes, found: str) -> None:
    """Data in none of the four formats are refused; the error names the formats, and says what the data look like."""
    with pytest.raises(ImageError) as caught:
        opened(data)
    expected = f"image: expected a JPEG, PNG, WebP or TIFF image, got {found}"
    assert str(caught.value)[: len(expected)] == expected


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A TIFF file whose header announces more rows than it has is opened without a log message."""
    file = bytearray(pyvips.Image.black(75, 72).write_to_buffer(".tif"))
    with tifffile.TiffFile(BytesIO(file)) as tiff:
        length = tiff.pages.first.tags["ImageLength"].valueoffset
    file[length : length + 2] = (20_000).to_bytes(2, "little")
    picture = opened(bytes(file))
    assert (picture.height, picture.decoded_whole) == (20_000, False)
    assert not caplog.records


@pytest.mark.parametrize(("format_", "name"), [("float", "float32"), ("short", "int16"), ("int", "int32")])
def test_other_element_types_are_refused(format_: str, name: str) -> None:
    """Element types without a value of white are refused for a model of pixels from 0 to 255."""
    data = pyvips.Image.new_from_array(noise(20, 20, 1)).cast(format_).write_to_buffer(".tif")
    with pytest.raises(ImageError, match=f"expected unsigned values of 8 or 16 bits, got 1 band of {name}"):
        opened(data).check_bands(RGB)


def test_too_many_bands_are_refused() -> None:
    """An image of seven bands is refused for an RGB model, and the error says to choose bands."""
    data = pyvips.Image.new_from_array(noise(20, 20, 7)).copy(interpretation="multiband").write_to_buffer(".tif")
    with pytest.raises(ImageError, match="expected the model's 3 bands, got 7 bands of uint8; choose"):
        opened(data).check_bands(RGB)


def test_models_of_other_channels_take_as_many_bands() -> None:
    """A model of four channels takes four bands unchanged and refuses other numbers of bands."""
    four = model_pb2.Input(channels=4, dtype="uint8")
    pixels = noise(20, 20, 4)
    assert_array_equal(pixels, pixels_of(opened(encode(pixels, ".tif")), four))
    for channels in (1, 3):
        with pytest.raises(ImageError, match=f"expected the model's 4 bands, got {channels} band"):
            opened(png(noise(20, 20, channels))).check_bands(four)


def test_small_images_are_refused() -> None:
    """An image smaller than the window is refused, and the error names both sizes."""
    with pytest.raises(
        ImageError, match=r"expected at least the model's window of 8×8 pixels \(height×width\), got 7×30"
    ):
        check_size(opened(png(noise(7, 30, 3))), max_pixels=10**6, max_whole_pixels=10**6, window=WINDOW)


def test_decompression_bombs_are_not_decoded() -> None:
    """A small PNG file whose header says 60000×60000 pixels is refused before it is decoded."""
    assert len(bomb()) < 1 << 20
    with pytest.raises(
        LimitError, match=r"60000×60000 pixels \(height×width\) are 3600 megapixels, expected at most 256"
    ):
        check_size(opened(bomb()), max_pixels=1 << 40, max_whole_pixels=256_000_000, window=WINDOW)


def test_tiffs_may_be_larger() -> None:
    """A tiled TIFF has a higher limit of pixels than other files, unless EXIF rotates it."""
    image = pyvips.Image.black(40_000, 10_000)
    check_size(
        opened(image.write_to_buffer(".tif", tile=True)), max_pixels=1 << 40, max_whole_pixels=10**8, window=WINDOW
    )
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    turned = opened(image.write_to_buffer(".tif", compression="deflate"))
    with pytest.raises(
        LimitError, match=r"40000×10000 pixels \(height×width\) are 400 megapixels, expected at most 100"
    ):
        check_size(turned, max_pixels=1 << 40, max_whole_pixels=10**8, window=WINDOW)


def test_tiffs_of_one_strip_have_the_limit_of_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TIFF with one large strip has the limit of files that are decoded whole; small strips do not."""
    monkeypatch.setattr("service.images.tiff.MAX_BLOCK_BYTES", 1 << 20)
    for rows, refused in ((10, False), (1200, True)):
        file = BytesIO()
        tifffile.imwrite(file, noise(1200, 1500, 1)[..., 0], rowsperstrip=rows, metadata=None)
        picture = opened(file.getvalue())
        with pytest.raises(LimitError, match="save it as a tiled TIFF") if refused else nullcontext():
            check_size(picture, max_pixels=1 << 40, max_whole_pixels=10**6, window=WINDOW)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_rows_are_read_in_spans(suffix: str) -> None:
    """Spans of rows that overlap or skip rows have the image's pixels, and a span of None gives None."""
    picture = opened(encode(noise(700, 90, 3), suffix, **({"Q": 90} if suffix in (".jpg", ".webp") else {})))
    whole, spans = pixels_of(picture, RGB), [(0, 100), (40, 300), None, (200, 300), (450, 451), (450, 700)]
    for span, strip in zip(spans, read_strips(picture.rows(RGB), spans), strict=True):
        assert (strip is None) == (span is None)
        if span:
            assert_array_equal(whole[slice(*span)], strip)


@pytest.mark.parametrize("size", [(350, 45), (233, 30), (1000, 130), (700, 41), (33, 90)])
def test_scaling_equals_pillow(size: tuple[int, int]) -> None:
    """An image that is scaled strip by strip equals Pillow's antialiased bilinear scaling of the whole image."""
    picture = opened(png(noise(700, 90, 3)))
    expected = np.asarray(Image.fromarray(pixels_of(picture, RGB)).resize(size[::-1], Image.Resampling.BILINEAR))
    spans = [(first, min(first + 60, size[0])) for first in range(0, size[0], 50)]
    for span, strip in zip(spans, read_strips(ScaledRows(picture.rows(RGB), (700, 90), size), spans), strict=True):
        assert strip is not None
        assert_allclose(expected[slice(*span)].astype(int), strip.astype(int), rtol=0, atol=1)


@pytest.mark.parametrize("size", [(350, 45), (233, 30), (1000, 130), (33, 90)])
def test_scaled_rows_do_not_depend_on_where_reading_begins(size: tuple[int, int]) -> None:
    """Rows that are read from the middle of an image, and in other strips, have the same bytes."""
    picture = opened(encode(noise(700, 90, 3), ".tif"))
    whole = ScaledRows(picture.rows(RGB), (700, 90), size).read(0, size[0])
    for first in (1, 7, size[0] // 2, size[0] - 1):
        rows = ScaledRows(picture.rows(RGB), (700, 90), size)
        middle = min(size[0], first + 5)
        assert_array_equal(whole[first:middle], rows.read(first, middle))
        if middle < size[0]:
            assert_array_equal(whole[middle:], rows.read(middle, size[0]))


def test_scaling_floats() -> None:
    """For a model of float32 pixels, interpolated values are not rounded."""
    pixels = np.array([[0, 10], [20, 30]], np.uint8)
    picture = opened(png(pixels))
    scaled = ScaledRows(picture.rows(model_pb2.Input(channels=1, dtype="float32")), (2, 2), (1, 1))
    assert_allclose(scaled.read(0, 1), 15)


def test_arrays_follow_the_same_rules() -> None:
    """An array is converted like a file with the same pixels."""
    deep = noise(40, 30, 3).astype(np.uint16) * 257
    for pixels, model_input in ((noise(40, 30, 1), RGB), (noise(40, 30, 3), GREY), (deep, FLOAT)):
        array = open_array("image", pixels.shape, pixels.dtype.name, partial(ArrayInMemory, pixels))
        array.check_bands(model_input)
        assert_array_equal(pixels_of(opened(encode(pixels, ".tif")), model_input), pixels_of(array, model_input))
    with pytest.raises(ImageError, match="dtype: expected uint8, uint16, int16, float32, got 'float64'"):
        open_array("image", (4, 4, 1), "float64", lambda: ArrayInMemory(np.zeros((4, 4, 1))))


def test_rows_keep_their_array_alive() -> None:
    """Rows keep the pixels of their array alive, because a thread may read them after the picture is freed."""
    pixels = noise(90, 100, 3)
    reference = weakref.ref(pixels)
    expected = np.round(pixels @ [0.299, 0.587, 0.114])[:40, :, None]
    rows = open_array("i", pixels.shape, "uint8", partial(ArrayInMemory, pixels)).rows(GREY)
    del pixels
    gc.collect()
    assert reference() is not None
    assert_array_equal(rows.read(0, 40), expected)


@pytest.mark.parametrize("stop", [16, 300], ids=["rows", "damage"])
def test_regions_are_released_after_reading(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read releases its region of libvips in the reading thread, even if an error of the read is kept."""
    ended: list[object] = []
    new = pyvips.Region.new

    def watched(image: pyvips.Image) -> pyvips.Region:
        region = new(image)
        unref = region.pointer
        region.pointer = pyvips.ffi.gc(unref, lambda _: ended.append(pyvips.ffi.release(unref)))
        return region

    monkeypatch.setattr(pyvips.Region, "new", watched)
    data = png(noise(300, 300, 3))
    rows = open_bytes(data[: len(data) // 2], name="i").rows(model_pb2.Input(channels=3, dtype="uint8"))
    kept: list[object] = []
    try:
        kept.append(rows.read(0, stop))
    except ImageError as error:
        kept.append(error)
    assert isinstance(kept[0], ImageError) == (stop == 300)
    assert len(ended) == 1
