"""Heatmaps as pyramids in TIFF files, which lie on the image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.testing import assert_allclose, assert_array_equal
from support.heatmaps import axis, draw, header, make_shown, picture
from support.paths import ROOT
from support.pictures import encode, noise
from tifffile import RESUNIT, TiffFile, imwrite
from typer.testing import CliRunner

from fullconv import HeatmapStyle, OutputError, RequestError, Scorer
from fullconv.command.cli import app
from fullconv.grid import GridRows
from fullconv.heatmap import heatmap_files
from fullconv.images import FileSource, Region, ScoredPixels
from fullconv.style import DEFAULT_STYLE

LABELS = ["a"]
ONE = make_shown(LABELS, "probabilities")
OVERLAY = HeatmapStyle(overlay=True)
MODEL = ["--models", str(ROOT / "models"), "--model", "digits"]
MEGABYTES = 1 << 20


def levels(path: Path) -> list[tuple[tuple[int, ...], bool]]:
    """Return the shape of each page of a TIFF file, and whether the file states that it is a reduced image."""
    with TiffFile(path) as file:
        assert all(page.tile == (256, 256) for page in file.pages)
        return [(page.shape, page.is_reduced) for page in file.pages]


def write(path: Path, source: Path, shape: tuple[int, int], style: HeatmapStyle = DEFAULT_STYLE) -> None:
    """Write the heatmap of a file whose cells have probability 0."""
    rows, cols = (length // 10 for length in shape)
    with heatmap_files(
        [path], header(axis(rows), axis(cols), LABELS), ONE, ScoredPixels(FileSource(source)), style
    ) as take:
        take(GridRows(0, np.zeros((rows, cols, 1), np.float32)))


def test_levels(tmp_path: Path) -> None:
    """The file has the size of the image, and levels of half the size down to a single tile."""
    draw(tmp_path, np.zeros((110, 150, 1)), ONE, LABELS, name="heat.tif")
    sizes = [(1100, 1500), (550, 750), (275, 375), (137, 187)]
    assert levels(tmp_path / "heat.tif") == [((*size, 3), number > 0) for number, size in enumerate(sizes)]
    draw(tmp_path, np.zeros((110, 150, 1)), ONE, LABELS, name="heat.tif", style=HeatmapStyle(scale=0.25))
    assert levels(tmp_path / "heat.tif") == [((275, 375, 3), False), ((137, 187, 3), True)]
    draw(tmp_path, np.zeros((110, 150, 1)), ONE, LABELS, name="heat.tif", style=OVERLAY)
    assert levels(tmp_path / "heat.tif") == [((*size, 4), number > 0) for number, size in enumerate(sizes)]


def test_cells_lie_over_the_image_in_grey(tmp_path: Path) -> None:
    """The image is grey where no cell is painted, and each cell has its colour, also at its corners."""
    pixels = (np.add.outer(np.arange(600), np.arange(900)) // 6).astype(np.uint8)
    p = np.zeros((60, 90))
    p[20:40, 30:60] = np.linspace(0.3, 0.45, 600).reshape(20, 30)
    over = draw(tmp_path, p[..., None], ONE, LABELS, pixels=pixels, style=OVERLAY).astype(int)
    heat = draw(tmp_path, p[..., None], ONE, LABELS, pixels=pixels, name="heat.tif").astype(int)
    opacity = over[..., 3:] / 255
    assert_allclose(np.abs(heat - (pixels[..., None] * (1 - opacity) + over[..., :3] * opacity)).mean(), 0, atol=1)
    assert np.ptp(heat[:190, :290], axis=-1).max() <= 2
    for row, col in ((20, 30), (20, 59), (39, 30), (39, 59)):
        inside, outside = heat[row * 10 : row * 10 + 10, col * 10 : col * 10 + 10], heat[row * 10 - 12, col * 10 - 12]
        assert (np.ptp(inside, axis=-1) > 8).all(), (row, col)
        assert row == 39 or np.ptp(outside) <= 2


def test_outlines_and_labels_are_enlarged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file that is larger than the largest picture, outlines lie at the same places as in a smaller picture."""
    labels = ["ground", "thing", "other"]
    scores = np.full((60, 90, 3), (1.0, 0, 0))
    scores[20:40, 30:60] = (0, 5, 0)
    style = HeatmapStyle(legend=False)
    sharp = draw(tmp_path, scores, make_shown(labels), labels, name="heat.tif", style=style)
    monkeypatch.setattr("fullconv.heatmap.layout.LONGEST", 450)
    coarse = draw(tmp_path, scores, make_shown(labels), labels, name="heat.tif", style=style)
    assert sharp.shape == coarse.shape == (600, 900, 3)
    assert_allclose(np.abs(sharp.astype(int) - coarse).mean(), 0, atol=2)
    assert (np.ptp(coarse[170:198].astype(int), axis=-1) > 60).sum() > 100


def test_a_region_is_drawn_at_its_place_in_the_whole_image(tmp_path: Path) -> None:
    """With a region, the file still has the size of the image, so that it lies on the image."""
    grid = header(axis(4, 100, 130), axis(5, 200, 240), LABELS)
    heat = draw(
        tmp_path, np.ones((4, 5, 1)), ONE, grid, region=Region(200, 100, 50, 40), name="heat.tif", style=OVERLAY
    )
    painted = np.zeros((140, 250), bool)
    painted[100:140, 200:250] = True
    assert_array_equal(heat[..., 3] > 0, painted)


def test_images_that_exif_rotates(tmp_path: Path) -> None:
    """The file shows the image upright."""
    pixels = noise(200, 300, 1)[..., 0] // 2 + np.linspace(0, 120, 300, dtype=np.uint8)
    stored = pyvips.Image.new_from_array(np.rot90(pixels).copy()).copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", 6)
    stored.jpegsave(str(tmp_path / "image.jpg"), Q=95)
    write(tmp_path / "heat.tif", tmp_path / "image.jpg", (200, 300))
    heat = picture(tmp_path / "heat.tif").astype(int)
    assert heat.shape == (200, 300, 3)
    assert np.abs(heat[..., 0] - pixels).mean() < 6


@pytest.mark.parametrize("unit", ["cm", "inch", None])
def test_resolutions_are_those_of_the_image(tmp_path: Path, unit: str | None) -> None:
    """The file has the resolution that the image states, times the scale, or states that it is not known."""
    source = tmp_path / "image.tif"
    if unit is None:
        imwrite(source, noise(300, 400, 1)[..., 0])
    else:
        source.write_bytes(encode(noise(300, 400, 1), ".tif", resunit=unit, xres=2000, yres=1000))
    answer = Scorer(ROOT / "models").score(source, model="digits", grid=True)
    answer.save(tmp_path / "heat.tif", style=HeatmapStyle(scale=0.5))
    with TiffFile(tmp_path / "heat.tif") as file:
        for page in file.pages:
            x, y = (page.tags[name].value for name in ("XResolution", "YResolution"))
            if unit is None:
                assert page.tags["ResolutionUnit"].value == RESUNIT.NONE
            else:
                assert page.tags["ResolutionUnit"].value == RESUNIT.CENTIMETER
                assert_allclose((x[0] / x[1], y[0] / y[1]), (10000, 5000), rtol=1e-6)


def test_large_files_have_the_form_for_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose pixels exceed the size that a TIFF file may have is a BigTIFF file."""
    for limit, big in ((300 * 400 * 3 * 4 / 3 + 1, False), (300 * 400 * 3 * 4 / 3, True)):
        monkeypatch.setattr("fullconv.heatmap.tiff.BIG_BYTES", limit)
        draw(tmp_path, np.zeros((30, 40, 1)), ONE, LABELS, name="heat.tif")
        with TiffFile(tmp_path / "heat.tif") as file:
            assert file.is_bigtiff is big


def test_several_files_of_one_heatmap(tmp_path: Path) -> None:
    """A picture and a TIFF file of the same scores are those that each alone would be."""
    image = tmp_path / "image.png"
    image.write_bytes(encode(noise(90, 120, 1), ".png"))
    both = [str(image), *MODEL, "--heatmap", str(tmp_path / "a.png"), "--heatmap", str(tmp_path / "a.tif")]
    assert CliRunner().invoke(app, [*both, "--heatmap-scale", "0.5"]).exit_code == 0
    answer = Scorer(ROOT / "models").score(image, model="digits", grid=True)
    answer.save(tmp_path / "b.tiff", style=HeatmapStyle(scale=0.5))
    answer.save(tmp_path / "b.png")
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tiff").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert levels(tmp_path / "a.tif") == [((45, 60, 3), False)]


def test_without_a_style_an_answer_saves_its_grid_as_tiff(tmp_path: Path) -> None:
    """`Answer.save` writes a .tif as a raster of the grid, or with a style as a heatmap; a .tiff needs a style."""
    answer = Scorer(ROOT / "models").score(noise(90, 120, 1), model="digits", grid=True)
    answer.save(tmp_path / "grid.tif")
    answer.save(tmp_path / "heat.tif", style=HeatmapStyle())
    with TiffFile(tmp_path / "grid.tif") as file:
        assert file.pages[0].dtype == np.float32
    assert picture(tmp_path / "heat.tif").shape == (90, 120, 3)
    with pytest.raises(RequestError, match="save: expected a file name that ends in"):
        answer.save(tmp_path / "heat.tiff")


def test_images_that_cannot_be_read_again_are_white(tmp_path: Path) -> None:
    """If the image is gone, the file has a white background."""
    write(tmp_path / "heat.tif", tmp_path / "none.png", (600, 900))
    assert_allclose(picture(tmp_path / "heat.tif"), np.full((600, 900, 3), 255), atol=1)


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the error states the file and the reason in one line, and nothing is left."""
    source = tmp_path / "image.png"
    source.write_bytes(encode(noise(600, 900, 1), ".png"))
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "touch", lambda path, **_: path.symlink_to("/dev/full"))
        with pytest.raises(OutputError) as full:
            write(tmp_path / "out/heat.tif", source, (600, 900))
    assert str(full.value) == f"{tmp_path}/out/heat.tif: cannot be written: No space left on device"
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("folder", ["none", "file"])
def test_folders_that_cannot_be_written(tmp_path: Path, folder: str) -> None:
    """A folder in which no file can be made is an error of one line, before the image is scored."""
    (tmp_path / "file").write_text("no folder")
    image = tmp_path / "image.png"
    image.write_bytes(encode(noise(90, 120, 1), ".png"))
    result = CliRunner().invoke(app, [str(image), *MODEL, "--heatmap", str(tmp_path / folder / "heat.tif")])
    assert result.exit_code != 0
    assert result.stderr.count("\n") == 1, result.stderr
    assert "heat.tif: cannot be written: No" in result.stderr


def test_an_interruption_stops_the_writing(tmp_path: Path) -> None:
    """An exception of the progress, such as that of a signal, ends the writing, and no file is left."""
    grid, calls = header(axis(60), axis(90), LABELS), []

    def stop(done: int, of: int) -> None:
        calls.append((done, of))
        raise SystemExit("interrupted")

    files = [tmp_path / "heat.tif"]
    with (
        pytest.raises(SystemExit, match="interrupted"),
        heatmap_files(files, grid, ONE, ScoredPixels(FileSource(tmp_path / "none.png")), progress=stop) as take,
    ):
        take(GridRows(0, np.zeros((60, 90, 1), np.float32)))
    assert len(calls) == 1
    assert not list(tmp_path.iterdir())


DRAWS = """
import sys
from pathlib import Path
import numpy as np
import support.heatmaps as heatmaps
import fullconv.heatmap.figure
from fullconv.grid import GridHeader, GridRows, ImageInfo, WindowAxis
from fullconv.heatmap import heatmap_files
from fullconv.images import FileSource, ScoredPixels

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10

source, out = map(Path, sys.argv[1:])
down, across = (WindowAxis((length - 200) // 50 + 1, 0, length - 200, 50, 200) for length in (9000, 12000))
header = GridHeader(ImageInfo("i", 12000, 9000), down, across, (0, 1, 2), ("a", "b", "c"), 3)
idle = peak()
with heatmap_files([out], header, heatmaps.make_shown(["a", "b", "c"]), ScoredPixels(FileSource(source))) as take:
    rows = np.random.default_rng(0).normal(size=(1, across.count, 3)).astype(np.float32)
    for row in range(down.count):
        take(GridRows(row, np.roll(rows, row, axis=1)))
print(peak() - idle)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["tiles", "strips of 16 bits", "jpeg"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, stored: str, suffix: str) -> None:
    """Drawing a heatmap of 108 megapixels needs much less memory than its pixels, in a process of its own."""
    pixels = pyvips.Image.xyz(12000, 9000)[0].bandjoin([pyvips.Image.xyz(12000, 9000)[1]] * 2).cast("ushort")
    match stored:
        case "tiles":
            source = tmp_path / "image.tif"
            eight = (pixels >> 6).cast("uchar").copy(interpretation="srgb")
            eight.tiffsave(str(source), tile=True, tile_width=256, tile_height=256, compression="jpeg")
        case "strips of 16 bits":
            source = tmp_path / "image.tif"
            pixels.copy(interpretation="rgb16").tiffsave(str(source), compression="deflate")
        case _:
            source = tmp_path / "image.jpg"
            (pixels >> 6).cast("uchar").copy(interpretation="srgb").jpegsave(str(source))
    command = [sys.executable, "-c", DRAWS, str(source), str(tmp_path / f"heat{suffix}")]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 450 * MEGABYTES
    written = pyvips.Image.new_from_file(str(tmp_path / f"heat{suffix}"))
    assert written.width == (12000 if suffix == ".tif" else 4096)
