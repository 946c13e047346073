"""The grey image behind a heatmap: read reduced, from a level of a pyramid, or while a large picture is written."""

from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from support.pictures import encode, noise

from fullconv.errors import ImageError
from fullconv.grid import ImageInfo
from fullconv.heatmap.backdrop import grey_picture
from fullconv.heatmap.slides import slide_picture
from fullconv.images import ArraySource, FileSource, Region, ScoredPixels, source_of

WIDTH, HEIGHT = 640, 480
IMAGE = ImageInfo("i", WIDTH, HEIGHT)
LEVELS = (200, 150, 100, 50)
"""The grey of each level of a pyramid whose levels are told apart by it."""


def pyramid(path: Path, *, subifds: bool = False, before: int = 0) -> FileSource:
    """Write a pyramid with levels of one grey each, after some pages of another size."""
    with tifffile.TiffWriter(path) as file:
        for _ in range(before):
            file.write(np.zeros((90, 70), np.uint8), photometric="minisblack", metadata=None)
        for number, grey in enumerate(LEVELS):
            level = np.full((HEIGHT >> number, WIDTH >> number), grey, np.uint8)
            first = number == 0
            file.write(
                level,
                tile=(64, 64),
                photometric="minisblack",
                subfiletype=int(not first),
                subifds=len(LEVELS) - 1 if subifds and first else None,
                metadata=None,
            )
    return FileSource(path)


@pytest.mark.parametrize("subifds", [False, True], ids=["pages", "subifds"])
@pytest.mark.parametrize(
    ("region", "size", "level"),
    [
        (None, (WIDTH, HEIGHT), 0),
        (None, (330, 248), 0),
        (None, (320, 240), 1),
        (None, (100, 75), 2),
        (None, (8, 6), 3),
        (Region(100, 60, 320, 240), (320, 240), 0),
        (Region(100, 60, 320, 240), (80, 60), 2),
        (Region(639, 479, 1, 1), (1, 1), 0),
        (Region(560, 400, 80, 80), (10, 10), 3),
    ],
)
def test_the_smallest_sufficient_level_is_read(
    tmp_path: Path, region: Region | None, size: tuple[int, int], level: int, *, subifds: bool
) -> None:
    """The background is read from the smallest level that is not smaller than the picture."""
    pixels = ScoredPixels(pyramid(tmp_path / "image.tif", subifds=subifds), region)
    grey = grey_picture(pixels, IMAGE, size).numpy()
    assert_array_equal(grey, np.full(size[::-1], LEVELS[level]))


def test_the_levels_are_those_of_the_page(tmp_path: Path) -> None:
    """For a page that the caller chose, or that has the size of the image, the levels of this page are read."""
    source = pyramid(tmp_path / "image.tif", before=2)
    for page in (0, 3):
        assert_array_equal(grey_picture(ScoredPixels(source, page=page), IMAGE, (320, 240)).numpy(), LEVELS[1])
    assert_array_equal(grey_picture(ScoredPixels(source, page=2), IMAGE, (70, 90)).numpy(), 0)


def write(path: Path, pixels: NDArray[np.generic], kind: str) -> FileSource | ArraySource:
    """Write pixels as a file of a kind."""
    match kind:
        case "npy":
            np.save(path, pixels)
            return ArraySource(np.load(f"{path}.npy", mmap_mode="r"))
        case "array":
            return ArraySource(pixels)
        case "turned":
            image = pyvips.Image.new_from_array(np.rot90(pixels).copy()).copy()
            image.set_type(pyvips.GValue.gint_type, "orientation", 6)
            image.pngsave(str(path))
        case "tiles":
            path.write_bytes(encode(pixels, ".tif", tile=True, compression="deflate"))
        case _:
            path.write_bytes(encode(pixels, f".{kind}"))
    return FileSource(path)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, dtype) for kind in ("png", "turned") for dtype in ("uint8", "uint16")),
        *((kind, dtype) for kind in ("tif", "tiles", "npy", "array") for dtype in ("uint8", "uint16", "float32")),
    ],
)
def test_large_backgrounds_are_read_while_they_are_written(
    tmp_path: Path, kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A background that is read row by row, later, has the same pixels as a background that is read at once."""
    pixels = noise(120, 200, 3).astype(dtype)
    scored = ScoredPixels(write(tmp_path / "image", pixels, kind))
    image = ImageInfo("i", 200, 120)
    at_once = grey_picture(scored, image, (200, 120)).numpy()
    monkeypatch.setattr("fullconv.heatmap.backdrop.LONGEST", 199)
    assert_allclose(grey_picture(scored, image, (200, 120)).numpy(), at_once, atol=0 if dtype == "uint8" else 8)


def test_pixels_without_a_value_are_black() -> None:
    """In a file of floating-point numbers, NaN is black and infinity is white; other values are stretched."""
    pixels = np.linspace(-5, 5, 4800, dtype=np.float32).reshape(60, 80)
    pixels[30, 40], pixels[31, 41] = np.nan, np.inf
    grey = grey_picture(ScoredPixels(ArraySource(pixels)), ImageInfo("i", 80, 60), (80, 60)).numpy().reshape(60, 80)
    assert grey[30, 40] == 0
    assert grey[0, 0] == 0
    assert grey[-1, -1] == 255
    assert_allclose(grey[15], np.interp(pixels[15], (-4.9, 4.9), (0, 255)), atol=1.5)


class Chunked:
    """An array that is not numpy's, like those of Zarr, and counts the pixels that are read."""

    dtype = np.dtype(np.uint8)
    shape = (400, 600)
    taken = 0

    def __getitem__(self, place: tuple[slice, slice]) -> NDArray[np.uint8]:
        whole: NDArray[np.uint8] = np.add.outer(np.arange(400) // 4, np.arange(600) // 4).astype(np.uint8)[place]
        self.taken = whole.size
        return whole


def test_arrays_of_other_libraries_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a picture larger than LONGEST, an array that is not numpy's is thinned to about LONGEST, and enlarged."""
    monkeypatch.setattr("fullconv.heatmap.backdrop.LONGEST", 150)
    array = Chunked()
    grey = grey_picture(ScoredPixels(source_of(array)), ImageInfo("i", 600, 400), (600, 400)).numpy()
    assert array.taken == 150 * 100
    assert_allclose(grey.reshape(400, 600)[8:-8, 8:-8], np.asarray(array[:, :])[8:-8, 8:-8], atol=3)


def test_large_backgrounds_of_files_without_readable_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of which libvips reads only the header is refused before a large picture is written."""
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as file:
        tile = iter([b"no tile"] * 80)
        file.write(tile, shape=(480, 640), dtype=np.uint8, tile=(64, 64), compression="jpeg", photometric="minisblack")
    for longest in (100, 4096):
        monkeypatch.setattr("fullconv.heatmap.backdrop.LONGEST", longest)
        with pytest.raises(ImageError, match=r"image\.tif: cannot be read again"):
            grey_picture(ScoredPixels(FileSource(path)), IMAGE, (WIDTH, HEIGHT))


@pytest.mark.extras
@pytest.mark.parametrize("region", [None, Region(300, 200, 900, 600)])
@pytest.mark.parametrize("longest", [200, 4096])
def test_slides_that_only_openslide_reads(
    tmp_path: Path, region: Region | None, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide in a scanner's format has the same background, read by OpenSlide or by libvips."""
    pixels = np.add.outer(np.arange(1200) // 10, np.arange(1800) // 15).astype(np.uint8)[..., None].repeat(3, 2)
    path, description = tmp_path / "slide.svs", "Aperio Image Library v11.2.1\r\n1800x1200|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 4):
            level = pixels[::step, ::step]
            file.write(level, tile=(256, 256), photometric="rgb", description=description, metadata=None)
    scored, image, size = ScoredPixels(FileSource(path), region), ImageInfo("i", 1800, 1200), (300, 200)
    expected = grey_picture(scored, image, size).numpy().astype(int)
    monkeypatch.setattr("fullconv.heatmap.backdrop.LONGEST", longest)
    monkeypatch.setattr("fullconv.heatmap.backdrop._is_readable", lambda *_: False)
    assert np.abs(grey_picture(scored, image, size).numpy() - expected).max() <= 4
    picture = slide_picture(path, region or Region(0, 0, 1800, 1200), size)
    assert size[0] <= picture.width < 2 * size[0]
    assert size[1] <= picture.height < 2 * size[1]
