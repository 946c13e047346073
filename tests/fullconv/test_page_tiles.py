"""The image of a page: its tiles, inside the page or beside it, and what happens if they cannot be read or written."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from support.pages import joined_tiles, write_page
from support.paths import ROOT
from support.pictures import encode, noise, png

from fullconv import Answer, OutputError, Scorer
from fullconv.images import ArraySource, FileSource, ImageSource, Region, ScoredPixels
from fullconv.page import tiles
from fullconv.page.tiles import check_folder

SMOOTH = np.stack(np.meshgrid(np.linspace(20, 230, 90), np.linspace(30, 200, 60)), -1).astype(np.uint8)
RED_GREEN = np.dstack([SMOOTH, np.full((60, 90), 100, np.uint8)])


def file_of(folder: Path, data: bytes) -> FileSource:
    """Write a file."""
    (folder / "image").write_bytes(data)
    return FileSource(folder / "image")


def rotated(folder: Path) -> FileSource:
    """Write an image that EXIF turns by 90 degrees."""
    picture = pyvips.Image.new_from_array(np.ascontiguousarray(np.rot90(RED_GREEN))).copy()
    picture.set_type(pyvips.GValue.gint_type, "orientation", 6)
    return file_of(folder, picture.write_to_buffer(".jpg", Q=95))


SOURCES: dict[str, tuple[Callable[[Path], ImageSource], NDArray[np.uint8]]] = {
    "jpeg": (lambda folder: file_of(folder, encode(RED_GREEN, ".jpg", Q=95)), RED_GREEN),
    "png": (lambda folder: file_of(folder, png(RED_GREEN)), RED_GREEN),
    "webp": (lambda folder: file_of(folder, encode(RED_GREEN, ".webp", lossless=True)), RED_GREEN),
    "tiff": (lambda folder: file_of(folder, encode(RED_GREEN, ".tif", tile=True, pyramid=True)), RED_GREEN),
    "grey": (lambda folder: file_of(folder, png(SMOOTH[..., 0])), SMOOTH[..., :1]),
    "rotated": (rotated, RED_GREEN),
    "array": (lambda _: ArraySource(RED_GREEN), RED_GREEN),
    "columns first": (lambda _: ArraySource(np.asfortranarray(RED_GREEN)), RED_GREEN),
    "two bands": (lambda _: ArraySource(SMOOTH), SMOOTH[..., :1]),
    "five bands": (lambda _: ArraySource(np.dstack([RED_GREEN, SMOOTH])), RED_GREEN),
    "transparent": (
        lambda folder: file_of(folder, png(np.dstack([RED_GREEN, np.zeros((60, 90), np.uint8)]))),
        np.full((60, 90, 3), 255, np.uint8),
    ),
}


@pytest.mark.parametrize(("source", "expected"), SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("folder", [False, True], ids=["inside", "beside"])
def test_tiles(
    source: Callable[[Path], ImageSource],
    expected: NDArray[np.uint8],
    folder: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles have the colours of the image; a small image is inside the page, a large one in a folder beside it."""
    monkeypatch.setattr(tiles, "INLINE_PIXELS", 60 * 90 - folder)
    page = write_page(tmp_path, np.ones((6, 9, 2)), pixels=ScoredPixels(source(tmp_path)))
    assert_allclose(joined_tiles(page, tmp_path).astype(int), expected, atol=12)
    files = {path.name for path in tmp_path.iterdir()} - {"image"}
    assert files == ({"page.html", "page_files"} if folder else {"page.html"})
    assert (page.document["picture"]["tiles"]["folder"] == "page_files/image_files") == folder
    assert not list(tmp_path.rglob("vips-properties.xml"))
    (policy,) = [each.attributes["content"] for each in page.named("meta") if "http-equiv" in each.attributes]
    assert (f"img-src data:{chr(59)}" in str(policy)) != folder


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_values_that_are_not_of_eight_bits(dtype: str, tmp_path: Path) -> None:
    """Values of other types are stretched from black to white, as in heatmaps."""
    ramp = np.broadcast_to(np.linspace(-300, 3000, 90), (60, 90)).astype(dtype if dtype != "uint16" else "int32")
    array = (ramp + (300 if dtype == "uint16" else 0)).astype(dtype)
    page = write_page(tmp_path, np.ones((6, 9, 2)), pixels=ScoredPixels(ArraySource(array)))
    assert_allclose(joined_tiles(page, tmp_path)[30, :, 0], np.clip(np.linspace(-2.6, 257.6, 90), 0, 255), atol=6)


def test_a_region_and_bands(tmp_path: Path) -> None:
    """A page shows only the region and the bands that were scored."""
    source = file_of(tmp_path, png(RED_GREEN))
    page = write_page(
        tmp_path, np.ones((6, 9, 2)), pixels=ScoredPixels(source, Region(30, 10, 40, 20), bands=(3, 2, 1))
    )
    assert_allclose(joined_tiles(page, tmp_path).astype(int), RED_GREEN[10:30, 30:70, ::-1], atol=12)
    assert {name: page.document["picture"][name] for name in ("x", "y", "width", "height")} == {
        "x": 30, "y": 10, "width": 40, "height": 20,
    }  # fmt: skip


@pytest.mark.parametrize("left", [0, 2000, None], ids=["empty", "cut", "gone"])
def test_an_image_that_cannot_be_read_again(left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background is white, and a remark says why; no folder is left."""
    monkeypatch.setattr(tiles, "INLINE_PIXELS", 100)
    source = file_of(tmp_path, png(noise(60, 90, 3)))
    if left is None:
        source.path.unlink()
    else:
        source.path.write_bytes(source.path.read_bytes()[:left])
    page = write_page(tmp_path, np.ones((6, 9, 2)), pixels=ScoredPixels(source))
    assert page.document["picture"]["tiles"] is None
    assert page.document["picture"]["remark"].startswith("image: cannot be read again")
    assert page.document["picture"]["remark"].endswith("; the background is white")
    assert {path.name for path in tmp_path.iterdir()} - {"image"} == {"page.html"}


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """Return the answer of an image of noise, with its grid."""
    path = tmp_path_factory.mktemp("image") / "noise.png"
    path.write_bytes(png(noise(105, 130, 1)))
    scorer = Scorer(ROOT / "models")
    return scorer.score(path, model="digits", grid=True)


def test_a_full_disk(answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one error that names the page, and nothing is left."""
    monkeypatch.setattr(Path, "touch", lambda path, **_: path.symlink_to("/dev/full"))
    with pytest.raises(OutputError, match=r"page\.html: cannot be written: No space left on device"):
        answer.save(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_disk_without_space_for_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If tiles cannot be written, the error says so, and the earlier page and its folder stay."""
    monkeypatch.setattr(tiles, "INLINE_PIXELS", 100)
    write_page(tmp_path, np.ones((6, 9, 2)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    pixels = ScoredPixels(ArraySource(noise(510, 510, 3)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=rf"page\.html: its tiles cannot be written: {os.strerror(errno.EFBIG)}"):
            write_page(tmp_path, np.ones((6, 9, 2)), pixels=pixels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_written(answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that refuses files is one error that names the page."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"page\.html: cannot be written: Permission denied"):
        answer.save(tmp_path / "page.html")


def test_a_folder_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not of an earlier page is not replaced, and is refused before rows are taken."""
    monkeypatch.setattr(tiles, "INLINE_PIXELS", 100)
    (tmp_path / "page_files").mkdir()
    (tmp_path / "page_files" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="expected page_files to be absent or the folder of an earlier page"):
        write_page(tmp_path, np.full((2, 3, 1), np.inf))
    assert [path.name for path in tmp_path.rglob("*")] == ["page_files", "thesis.txt"]


def test_a_page_replaces_an_earlier_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page and its folder replace those of an earlier run."""
    monkeypatch.setattr(tiles, "INLINE_PIXELS", 100)
    write_page(tmp_path, np.ones((6, 9, 2)))
    page = write_page(tmp_path, np.ones((6, 9, 2)), pixels=ScoredPixels(ArraySource(RED_GREEN)))
    assert_allclose(joined_tiles(page, tmp_path).astype(int), RED_GREEN, atol=12)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import pyvips
from fullconv.grid import GridHeader, GridRows, ImageInfo, WindowAxis
from fullconv.grids.cells import CellValues
from fullconv.images import FileSource, ScoredPixels
from fullconv.page import page_file

folder, height = Path(sys.argv[1]), int(sys.argv[2])
wide = 16_000
image = folder / f"{height}.tif"
pyvips.Image.gaussnoise(wide, height, mean=128).cast("uchar").tiffsave(str(image), tile=True, compression="jpeg")
header = GridHeader(
    ImageInfo("i", wide, height), WindowAxis(height // 400, 0, height - 400, 400, 400),
    WindowAxis(wide // 400, 0, wide - 400, 400, 400), (0, 1), ("a", "b"), 2,
)
values = CellValues(header, "probabilities", (0, 1), image=ScoredPixels(FileSource(image)))
answer = {"image": {"name": "i"}, "model": "m", "version": "1"}
before = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
Path("/proc/self/clear_refs").write_text("5")
with page_file(folder / f"{height}.html", values, lambda: answer) as take:
    for row in range(height // 400):
        take(GridRows(row, np.full((1, wide // 400, 2), 0.5, np.float32)))
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """The page of an image of 192 megapixels needs at most 60 MB more than that of an image of 32 megapixels."""
    peaks = []
    for height in (2000, 12_000):
        command = [sys.executable, "-c", MEMORY, str(tmp_path), str(height)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(int(result.stdout))
    assert peaks[1] - peaks[0] < 60_000, peaks


def test_a_folder_of_tiles_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder beside the page may not be read, the error names the page."""
    (tmp_path / "a_files").mkdir()

    def refused(_: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(OutputError, match=r"a\.html: cannot be written: Permission denied$"):
        check_folder(tmp_path / "a.html", Region(0, 0, 5000, 5000))


def test_a_small_page_replaces_a_page_with_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the page of a small image replaces that of a large one, the folder of the old tiles is removed."""
    for limit, expected in ((60 * 90 - 1, {"page.html", "page_files"}), (60 * 90, {"page.html"})):
        monkeypatch.setattr(tiles, "INLINE_PIXELS", limit)
        write_page(tmp_path, np.ones((6, 9, 2)), pixels=ScoredPixels(ArraySource(RED_GREEN)))
        assert {path.name for path in tmp_path.iterdir()} == expected


def test_a_small_page_leaves_other_folders(tmp_path: Path) -> None:
    """A folder of the same name that holds something else stays."""
    (tmp_path / "page_files").mkdir()
    (tmp_path / "page_files" / "notes.txt").write_text("mine")
    write_page(tmp_path, np.ones((6, 9, 2)), pixels=ScoredPixels(ArraySource(RED_GREEN)))
    assert (tmp_path / "page_files" / "notes.txt").read_text() == "mine"
