"""Slides are scored at a resolution: from a level of their pyramid, and scaled from there."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.networks import UNPADDED, Network, make_network
from support.servers import running
from support.slides import MICRONS, Pixels, halved, pyramid_of, tissue, write_ome, write_pages, write_svs
from typer.testing import CliRunner

from converter.cli import app as convert
from fullconv import Answer, Client, ImageError, RequestError, Scorer
from fullconv.command.cli import app as score
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from service.images.files import open_path
from service.images.optics import Optics
from service.images.picture import PageSelection

HEIGHT, WIDTH = 331, 424
APERIO = "Aperio Image Library v12.0.15\n424x331 [0,0 424x331] (64x64) JPEG/RGB Q=70|AppMag = 40|MPP = 0.25|Left = 1"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Return a checkpoint of five classes."""
    return make_network(tmp_path_factory.mktemp("network"), UNPADDED)


@pytest.fixture(scope="module")
def models(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of two models: "plain", and "trained" on pixels of half a micrometre."""
    folder = tmp_path_factory.mktemp("models")
    for name, options in (("plain", []), ("trained", ["--mpp", "0.5"])):
        target = str(folder / name / "1")
        arguments = [str(network.checkpoint), "-o", target, "--arch", str(network.toml), "--verify", "4", *options]
        assert CliRunner().invoke(convert, arguments).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a slide of three levels, of pixels of a quarter of a micrometre."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pages(path, pyramid_of(tissue(HEIGHT, WIDTH), 3))
    return path


@pytest.fixture(scope="module")
def half(models: Path) -> Answer:
    """Return the scores of the slide's first reduced copy by itself."""
    return Scorer(models).score(halved(tissue(HEIGHT, WIDTH)), model="plain", grid=True)


@pytest.mark.parametrize(
    "options",
    [{"mpp": 2 * MICRONS}, {"level": 1}, {"magnification": 20}, {"scales": ["0.5x"]}],
    ids=["mpp", "level", "magnification", "scales"],
)
def test_a_resolution_reads_a_level(models: Path, slide: Path, half: Answer, options: dict[str, object]) -> None:
    """At half the resolution the first level is scored as it is, without half a row; windows are the slide's."""
    answer = Scorer(models).score(slide, model="plain", grid=True, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(answer.grid, half.grid)
    assert (answer.image.width, answer.image.height) == (WIDTH, HEIGHT)
    assert answer.image.microns_per_pixel == (MICRONS, MICRONS)
    np.testing.assert_array_equal(answer.x, 2 * half.x)
    assert answer.window == (44, 52)
    assert not answer.warnings


def test_the_remainder_is_scaled_from_the_next_larger_level(models: Path, slide: Path) -> None:
    """0.75 micrometres are two thirds of the first level, which is scaled as any image."""
    answer = Scorer(models).score(slide, model="plain", grid=True, mpp=0.75)
    level = Scorer(models).score(halved(tissue(HEIGHT, WIDTH)), model="plain", grid=True, scales=[round(HEIGHT / 3)])
    np.testing.assert_array_equal(answer.grid, level.grid)


def test_a_region_and_otsu_are_those_of_the_slide(models: Path, slide: Path) -> None:
    """The windows of a region, in pixels of the slide, lie inside it at any resolution."""
    answer = Scorer(models).score(slide, model="plain", grid=True, mpp=0.5, roi=(100, 60, 200, 150), mask="otsu")
    right, bottom = (answer.boxes[..., :2] + answer.boxes[..., 2:]).max((0, 1))
    assert answer.x[0] >= 100
    assert answer.y[0] >= 60
    assert (right, bottom) <= (300, 210)


def test_a_model_that_knows_its_resolution(models: Path, slide: Path, half: Answer) -> None:
    """It scores slides at it without being told, and says so; other images as they are; level 0 is the slide itself."""
    scorer = Scorer(models)
    answer = scorer.score(slide, model="trained", grid=True)
    np.testing.assert_array_equal(answer.x, 2 * half.x)
    assert answer.warnings == ("scored at 0.5 micrometres per pixel, as the model was trained; the image has 0.25",)
    assert scorer.score(slide, model="trained", level=0).window == (22, 26)
    assert scorer.score(tissue(60, 60), model="trained").warnings == ()


def test_an_enlarged_image_is_said(models: Path, slide: Path) -> None:
    """A resolution that the slide does not have is scored with a warning."""
    answer = Scorer(models).score(slide, model="plain", mpp=0.125)
    assert answer.window == (11, 13)
    assert answer.warnings == ("the image was enlarged 2 times, beyond its own 0.25 micrometres per pixel",)


@pytest.mark.slow
def test_a_server_and_this_process_agree(models: Path, slide: Path, tmp_path: Path) -> None:
    """A file that is sent, in one message or in parts, and a path on the server give the same scores."""
    path = tmp_path / "slide.tif"
    path.write_bytes(slide.read_bytes())
    own = Scorer(models).score(slide, model="trained", grid=True)
    with running(models, "--images", str(tmp_path)) as server, Client(server.address) as client:
        sent = client.score(slide, model="trained", grid=True)
        with client.score_large(slide, model="trained", grid=True) as stream:
            parts = np.concatenate([rows.scores for rows in stream.rows()])
            large = stream.result()
    for answer in (sent, large):
        assert answer.document() | {"timing_ms": 0} == own.document() | {"timing_ms": 0}
    np.testing.assert_array_equal(sent.grid, own.grid)
    np.testing.assert_array_equal(parts, own.grid)


FILES: dict[str, Callable[[Path, list[Pixels]], None]] = {
    "pages": write_pages,
    "unmarked pages": partial(write_pages, reduced=False),
    "Aperio": partial(write_pages, reduced=False, description=APERIO),
    "OME": write_ome,
}


@pytest.mark.parametrize("kind", FILES)
def test_kinds_of_pyramids(tmp_path: Path, kind: str) -> None:
    """Levels are found as pages and as SubIFDs; the size of the pixels in tags, in OME-XML and as Aperio writes it."""
    levels = pyramid_of(tissue(HEIGHT, WIDTH), 3)
    FILES[kind](tmp_path / "slide.tif", levels)
    picture = open_path(tmp_path / "slide.tif")
    assert picture.optics.microns_per_pixel == pytest.approx((MICRONS, MICRONS))
    assert picture.optics.magnification == (40 if kind == "Aperio" else None)
    assert [copy.size for copy in picture.copies] == [level.shape[:2] for level in levels[1:]]
    for copy, level in zip(picture.copies, levels[1:], strict=True):
        np.testing.assert_array_equal(copy.open_samples(lambda: None).read(0, copy.height), level)


@pytest.mark.extras
def test_slides_read_by_openslide(tmp_path: Path, models: Path) -> None:
    """Levels and sizes of pixels are those that OpenSlide finds, in this process and by a path on a server."""
    from openslide import OpenSlide  # noqa: PLC0415 (an extra)

    write_svs(tmp_path / "slide.svs", pyramid_of(tissue(512, 640), 3))
    picture = open_path(tmp_path / "slide.svs")
    assert picture.optics == Optics((MICRONS, MICRONS), 40)
    assert [copy.size for copy in picture.copies] == [(256, 320), (128, 160)]
    for level, copy in enumerate(picture.copies, 1):
        region = OpenSlide(tmp_path / "slide.svs").read_region((0, 0), level, (copy.width, copy.height))
        np.testing.assert_array_equal(copy.open_samples(lambda: None).read(0, copy.height), np.asarray(region)[..., :3])
    own = Scorer(models).score(tmp_path / "slide.svs", model="trained", mask="otsu")
    request = scoring_pb2.ScoreRequest(model="trained", image=scoring_pb2.Image(path="slide.svs"))
    request.options.mask_otsu = True
    with running(models, "--images", str(tmp_path)) as server, grpc.insecure_channel(server.address) as channel:
        response = scoring_pb2_grpc.ScoringStub(channel).Score(request)
    assert (response.image.width, response.grid.scaled.width) == (640, 320)
    np.testing.assert_array_equal(response.average.values, own.average)


def test_pages_that_are_no_copies(tmp_path: Path) -> None:
    """Pages of another shape, larger pages, strips and other bands are no reduced copies; a page may have its own."""
    import tifffile  # noqa: PLC0415

    pixels = tissue(HEIGHT, WIDTH)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tiff:
        tiff.write(pixels, photometric="rgb", tile=(64, 64))
        tiff.write(pixels[:160, :160], photometric="rgb", tile=(64, 64))
        tiff.write(halved(pixels), photometric="rgb")
        tiff.write(halved(pixels)[..., 0], photometric="minisblack", tile=(64, 64))
        tiff.write(halved(halved(pixels)), photometric="rgb", tile=(64, 64), subfiletype=1)
    sizes = [copy.size for copy in open_path(tmp_path / "pages.tif").copies]
    assert sizes == [(82, 106)]
    assert open_path(tmp_path / "pages.tif", PageSelection(2)).copies == ()


def test_files_of_no_microscope(tmp_path: Path) -> None:
    """72 dots per inch say how a photograph is printed; a map's overviews are not read as levels."""
    import tifffile  # noqa: PLC0415

    levels = pyramid_of(tissue(HEIGHT, WIDTH), 2)
    keys = (34735, "H", 4, (1, 1, 0, 0), True)
    printed = {"resolution": (72, 72), "resolutionunit": "INCH"}
    for name, tags in (("photograph", printed), ("map", {"extratags": [keys]})):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as tiff:
            tiff.write(levels[0], photometric="rgb", tile=(64, 64), **tags)
            tiff.write(levels[1], photometric="rgb", tile=(64, 64), subfiletype=1)
        picture = open_path(tmp_path / f"{name}.tif")
        assert picture.optics.microns_per_pixel is None
        assert len(picture.copies) == (name == "photograph")


def test_a_damaged_level_is_not_needed(tmp_path: Path, models: Path) -> None:
    """A copy whose tags cannot be read is left out, and the image is scored."""
    path = tmp_path / "slide.tif"
    write_pages(path, pyramid_of(tissue(HEIGHT, WIDTH), 2))
    import tifffile  # noqa: PLC0415

    with tifffile.TiffFile(path) as tiff:
        position = tiff.pages[1].tags["Compression"].valueoffset
    data = bytearray(path.read_bytes())
    data[position : position + 2] = b"\xff\xff"
    path.write_bytes(data)
    assert open_path(path).copies == ()
    assert Scorer(models).score(path, model="trained").window == (44, 52)


REFUSED = [
    ({"level": 3}, r"level: expected one of the file's levels, 0 \(331×424\), 1 \(165×212\), 2 \(82×106\), got 3"),
    ({"mpp": 0}, "mpp: expected a number above 0, got 0"),
    ({"mpp": float("nan")}, "mpp: expected a number above 0, got nan"),
    ({"mpp": 1, "level": 1}, "level: expected none with mpp, which gives the resolution too"),
    (
        {"mpp": 20},
        r"mpp, level or magnification: expected at least the model's window of 22×26 pixels \(height×width\), got 4×5",
    ),
    ({"mpp": 1e-6}, "mpp, level or magnification: expected at most"),
    ({"mpp": 1e-320}, "mpp: expected a number from 1e-07 to 10000000, got"),
]


@pytest.mark.parametrize(("options", "expected"), REFUSED)
def test_refused_resolutions(models: Path, slide: Path, options: dict[str, float], expected: str) -> None:
    """The error names the option, and what the file has."""
    with pytest.raises(Exception, match=expected):
        Scorer(models).score(slide, model="plain", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"mpp": 0.5}, {"magnification": 20}])
def test_images_without_a_size(models: Path, options: dict[str, float]) -> None:
    """An array states no size of its pixels."""
    with pytest.raises(ImageError, match="expected an image that states the size of its pixels in micrometres"):
        Scorer(models).score(tissue(60, 60), model="plain", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "status"),
    [(["--mpp", "0.5"], 0), (["--level", "1"], 0), (["--magnification", "20"], 0), (["--mpp", "0"], 2),
     (["--magnification", "inf"], 2), (["--mpp", "1", "--level", "1"], 2), (["--level", "9"], 3)],
)  # fmt: skip
def test_the_command(models: Path, slide: Path, options: list[str], status: int) -> None:
    """The document has the windows in pixels of the slide, and the size of its pixels."""
    result = CliRunner().invoke(score, [str(slide), "--model", "plain", "--models", str(models), "--json", *options])
    assert result.exit_code == status, result.output
    if status == 0:
        document = json.loads(result.output)
        assert document["grid"]["window"] == [44, 52]
        assert document["image"] == {"name": "slide.tif", "width": WIDTH, "height": HEIGHT, "mpp": [MICRONS, MICRONS]}


def test_options_are_checked_before_the_image_is_read(models: Path) -> None:
    """A resolution that is no number is the caller's mistake."""
    with pytest.raises(RequestError, match="mpp: expected a number above 0, got 'fine'"):
        Scorer(models).score("none.tif", model="plain", mpp="fine")  # type: ignore[arg-type]
