"""Unusual, damaged and hostile TIFF files are read correctly, or refused with little time and memory."""

import struct
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from support.hostile import progressive
from support.pictures import noise

from fullconv.protos import model_pb2
from service.errors import ImageError, LimitError
from service.images.encoded import open_bytes, open_file
from service.images.picture import Picture

RGB = model_pb2.Input(channels=3, dtype="uint8")
GREY = model_pb2.Input(channels=1, dtype="uint8")


def tiff(tags: dict[int, int | tuple[int, ...]], data: bytes = b"") -> bytes:
    """Return a file of one page with tags of 32-bit integers; the data of its strip start at byte 8."""
    directory, extra, at = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            extra += packed
            packed = struct.pack("<I", at + len(extra) - len(packed))
        directory += struct.pack("<HHI", tag, 4, len(values)) + packed
    start = struct.pack("<4sI", b"II*\0", 8 + len(data))
    return start + data + struct.pack("<H", len(tags)) + directory + bytes(4) + extra


def page(height: int, width: int, bands: int = 1, **tags: object) -> dict[int, int | tuple[int, ...]]:
    """The tags of an uncompressed page of bytes in one strip; keyword arguments change them, by name or number."""
    names = {"photometric": 262, "offset": 273, "count": 279, "bits": 258, "compression": 259, "extras": 338}
    made: dict[int, int | tuple[int, ...]] = {256: width, 257: height, 258: (8,) * bands if bands > 1 else 8, 259: 1}
    made |= {262: 1, 273: 8, 277: bands, 278: height, 279: height * width * bands}
    made.update((names.get(name) or int(name[1:]), value) for name, value in tags.items())  # type: ignore[misc]
    return made


def opened(data: bytes) -> Picture:
    return open_bytes(data, name="i")


def pixels_of(data: bytes, model_input: model_pb2.Input = GREY) -> np.ndarray:
    picture = opened(data)
    return picture.rows(model_input).read(0, picture.height)


def test_counts_that_are_left_out_are_computed() -> None:
    """An uncompressed strip is read even if its byte count is 0 or missing."""
    pixels = noise(16, 16, 1)
    tags = page(16, 16, count=0)
    assert_array_equal(pixels, pixels_of(tiff(tags, pixels.tobytes())))
    del tags[279]
    assert_array_equal(pixels, pixels_of(tiff(tags, pixels.tobytes())))


def test_a_compressed_strip_without_bytes_is_damaged() -> None:
    """A compressed strip with a position in the file and a byte count of 0 is damaged, not left out."""
    with pytest.raises(ImageError, match=r"cannot be decoded: (damaged|truncated)|damaged directory"):
        pixels_of(tiff(page(16, 16, compression=8, count=0), bytes(20)))


@pytest.mark.parametrize(
    ("tags", "expected_message"),
    [
        ({"photometric": 5}, "inks other than CMYK"),
        ({"photometric": 5, "t332": 2}, "inks other than CMYK"),
        ({"photometric": 0}, "PhotometricInterpretation 0 with 3 bands"),
        ({"t34675": 3_000_000_000, "photometric": 5, "t277": 4, "bits": (8,) * 4}, "a profile or JPEG tables"),
    ],
    ids=["three inks", "other inks", "inverse of three bands", "profile"],
)
def test_odd_kinds_are_named(tags: dict[str, object], expected_message: str) -> None:
    """Inks, inverted values and profiles that are not supported are refused; the error names them."""
    with pytest.raises(ImageError, match=expected_message):
        opened(tiff(page(16, 16, 3, **tags), bytes(1024)))


def test_a_file_without_photometric_interpretation_is_refused() -> None:
    """A page without PhotometricInterpretation is refused, because its 0 may be black or white."""
    tags = page(16, 16)
    del tags[262]
    with pytest.raises(ImageError, match="no PhotometricInterpretation"):
        opened(tiff(tags, bytes(256)))


def test_numbers_beyond_the_palette_are_damage() -> None:
    """A palette with fewer colours than its numbers can name is refused."""
    tags = page(16, 16, photometric=3) | {320: tuple(range(3 * 16))}
    with pytest.raises(ImageError, match="a palette of 16 colours for numbers of 8 bits"):
        opened(tiff(tags, bytes(256)))


def with_mask(images: int, mask: np.ndarray) -> bytes:
    """Return a file with some images, followed by a page that is marked as a mask."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(images):
            writer.write(noise(16, 16, 3), photometric="rgb", metadata=None)
        writer.write(mask, photometric="minisblack", subfiletype=1, metadata=None)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(BytesIO(data)) as written:
        data[written.pages[images].tags[254].valueoffset] = 4
    return bytes(data)


def test_the_mask_of_another_page_is_not_used() -> None:
    """A mask applies to the image before it, not to an earlier image."""
    assert opened(with_mask(2, np.zeros((16, 16), np.uint8))).data_mask() is None


def test_the_own_mask_says_where_there_are_data() -> None:
    """A mask page after the image, as GDAL writes it, becomes the data mask."""
    mask = np.zeros((16, 16), np.uint8)
    mask[4:, 2:] = 255
    valid = opened(with_mask(1, mask)).data_mask()
    assert valid is not None
    assert_array_equal(mask[..., None], valid.read(0, 16))


def test_a_tile_that_holds_less_than_its_part_is_damaged() -> None:
    """A JPEG tile with fewer pixels than the tile is damaged; its pixels are not repeated."""
    data = bytearray(tifffile_of(noise(32, 32, 3), compression="jpeg", tile=(32, 32)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (8).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match=r"cannot be decoded: (damaged|truncated)|damaged directory"):
        pixels_of(bytes(data), RGB)


@pytest.mark.parametrize(("scans", "is_read"), [(90, True), (110, False)])
def test_scans_of_a_jpeg_strip_are_limited(*, scans: int, is_read: bool) -> None:
    """A strip of JPEG data with more scans than any encoder writes is refused before it is decoded."""
    data = progressive(16, 16, scans)
    file = tiff(page(16, 16, bands=3, compression=7, photometric=6, count=len(data)), data + bytes(len(data) % 2))
    if is_read:
        assert pixels_of(file).shape == (16, 16, 1)
        return
    with pytest.raises(ImageError, match=r"JPEG compression.*damaged"):
        pixels_of(file)


def tifffile_of(pixels: np.ndarray, **options: object) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", metadata=None, **options)
    return file.getvalue()


@pytest.mark.parametrize("sampling", [(1, 1), None], ids=["whole", "default"])
def test_planes_of_jpeg_ycbcr_are_not_taken_for_rgb(sampling: tuple[int, int] | None) -> None:
    """JPEG with separate bands of Y, Cb and Cr is converted, or refused if TIFF's default makes it subsampled."""
    ycbcr = np.tile(np.array([87, 129, 208], np.uint8), (16, 16, 1))
    file = BytesIO()
    tags = [(530, 3, 2, sampling, True)] if sampling else []
    options = {"compression": "jpeg", "compressionargs": {"level": 100}, "planarconfig": "separate"}
    tifffile.imwrite(file, np.moveaxis(ycbcr, -1, 0), photometric="rgb", metadata=None, extratags=tags, **options)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(BytesIO(data)) as written:
        at = written.pages[0].tags[262].valueoffset
    data[at : at + 2] = (6).to_bytes(2, "little")
    if sampling:
        assert np.abs(pixels_of(bytes(data), RGB).astype(int) - [199, 30, 89]).max() <= 4
        return
    with pytest.raises(ImageError, match="YCbCr without JPEG whose colours are stored at a lower resolution"):
        pixels_of(bytes(data), RGB)


def peak(work: object) -> int:
    """Peak bytes of Python's and numpy's memory until `work` raises an ImageError."""
    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            work()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        tiff(page(256, 256, 3, t277=60_000, offset=0, count=0)),
        tiff(page(8000, 8000, 4, bits=(64,) * 4, t339=(3,) * 4, t274=6, offset=0, count=0)),
        tiff(page(64, 64, t322=16384, t323=16384, t324=0, t325=0, bits=64, t339=3)),
        tiff(page(200_000, 200_000, offset=0, count=0)),
    ],
    ids=["bands", "turned", "tile", "strip"],
)
def test_files_that_leave_out_their_data_cost_little(data: bytes) -> None:
    """A file of some hundred bytes that claims gigabytes of pixels is refused without much memory."""
    model_input = model_pb2.Input(channels=4, dtype="float32", preprocessing=model_pb2.Preprocessing(dtype="float32"))

    def read() -> None:
        picture = opened(data)
        if picture.decoded_whole and picture.height * picture.width > 256_000_000:
            raise LimitError("as check_size does")
        picture.rows(model_input).read(0, picture.height)

    assert peak(read) < 64 << 20


def test_long_tags_are_not_kept_for_every_page() -> None:
    """Hundreds of pages that share a description of one megabyte are refused without much memory."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(400):
            writer.write(noise(8, 8, 1)[..., 0], photometric="minisblack", metadata=None, description="a" * 20)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(BytesIO(data)) as written:
        places = [entry.tags[270].offset for entry in written.pages]
    for place in places:
        data[place + 4 : place + 12] = struct.pack("<II", 1 << 20, len(data))
    data += b"a" * (1 << 20)
    assert peak(lambda: opened(bytes(data))) < 64 << 20


def test_counts_beyond_the_file_are_damage(tmp_path: Path) -> None:
    """Offsets and byte counts that exceed every file are an ImageError, for a file and for bytes in memory."""
    file = BytesIO()
    tifffile.imwrite(file, noise(16, 16, 1)[..., 0], bigtiff=True, metadata=None, compression="zlib")
    for tag, value in ((273, (1 << 63) - 1), (279, 1 << 62)):
        data = bytearray(file.getvalue())
        with tifffile.TiffFile(BytesIO(data)) as written:
            at = written.pages[0].tags[tag].offset
        data[at + 2 : at + 20] = struct.pack("<HQQ", 16, 1, value)
        path = tmp_path / "image.tif"
        path.write_bytes(data)
        with pytest.raises(ImageError, match=r"cannot be decoded: (damaged|truncated)|damaged directory"):
            open_file(path).rows(GREY).read(0, 16)


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    """A plain TIFF file with the suffix of a scanner's format is read."""
    path = tmp_path / "image.ndpi"
    path.write_bytes(tifffile_of(noise(16, 16, 3)))
    assert_array_equal(noise(16, 16, 3), open_file(path).rows(RGB).read(0, 16))
