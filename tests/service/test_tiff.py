"""TIFF files have the same meaning in this process, with each extra, and on a server.

`data/images/` holds small files of kinds that are easily misread, and a classifier of one pixel whose three scores are
red, green and blue, so that the grid is the image as it was read. Others are made here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.testing import assert_array_equal
from PIL import Image
from support.conversion import SILENT
from support.paths import ROOT
from support.pictures import noise
from support.servers import running

from converter import convert as conversion
from converter.sources.read import read_source
from fullconv import Client, ImageError, Scorer
from fullconv.options import Options
from fullconv.protos import model_pb2
from service import errors
from service.images.encoded import open_bytes

IMAGES = ROOT / "tests/data/images"
RED, GREEN, BLUE, BLACK, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]
BANDS = "choose the bands to score with bands (in the command --bands 1,2,3)"
RGB = model_pb2.Input(channels=3, dtype="uint8")


@dataclass(frozen=True)
class Case:
    """A file with its pixels, (x, y) → (red, green, blue), or the error; `bands` is the request's option."""

    file: str
    pixels: dict[tuple[int, int], list[int]] | None = None
    refused: str = ""
    bands: tuple[int, ...] = ()
    warned: str = ""


CASES = [
    Case("ycbcr_444_raw", {(0, 0): [254, 0, 0], (31, 0): [0, 255, 1], (0, 31): [0, 0, 254], (31, 31): [200, 200, 40]}),
    Case("ycbcr_444_deflate", {(0, 0): [254, 0, 0], (31, 0): [0, 255, 1], (31, 31): [200, 200, 40]}),
    Case("cielab_8bit", refused="supported kind, got CIELAB colours"),
    Case("nodata_palette", {(0, 0): RED, (15, 0): GREEN}),
    Case("nodata_bit", {(0, 0): BLACK, (15, 0): WHITE}),
    Case("nodata_miniswhite", {(0, 0): [225] * 3, (15, 15): [225] * 3}),
    Case("rgb_nir_unspecified", refused=f"the file does not say that band 4 is alpha; {BANDS}"),
    Case("rgb_nir_unspecified", {(4, 4): [10, 60, 110]}, bands=(1, 2, 3)),
    Case("rgb_nir_unspecified", {(4, 4): [40, 10, 60]}, bands=(4, 1, 2)),
    Case("four_bands_uint16", refused=f"the file does not say that band 4 is alpha; {BANDS}"),
    Case("four_bands_uint16", {(4, 4): [10, 60, 110]}, bands=(1, 2, 3), warned="0 to 65535 were scaled"),
    Case("four_bands_uint16", refused="bands: expected 1 to 4, got 5", bands=(1, 2, 5)),
    Case("three_bands_uint16", {(4, 4): [10, 60, 110]}, warned="0 to 65535 were scaled"),
    Case("tiled_planar_rgb", {(0, 0): BLACK, (63, 0): [252, 0, 126], (0, 63): [0, 252, 126]}),
    Case("description_without_nul", {(4, 4): RED, (4, 28): BLUE}),
    Case("datetime_without_nul", {(4, 4): RED, (4, 28): BLUE}),
    Case("grey_12bit", {(0, 0): BLACK, (15, 3): WHITE}, warned="0 to 4095 were scaled"),
    Case("rgb_zstd", {(4, 4): RED, (4, 60): BLACK}),
    Case("rgb_lzma", {(4, 4): RED, (4, 60): BLACK}),
    Case("reduced_first", {(4, 4): RED, (4, 60): BLACK}),
]
IDS = [f"{case.file}{'-bands' if case.bands else ''}" for case in CASES]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the classifier of a single pixel."""
    folder = tmp_path_factory.mktemp("models")
    request = conversion.Request(folder / "identity/1", preprocess=str(IMAGES / "rgb.json"))
    conversion.convert(read_source(IMAGES / "identity.onnx", arch=None, window=None), request, SILENT)
    return folder


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[Client]:
    """Yield a client of a server with these models, in whose allowed directory the files of the cases are."""
    with running(models, "--images", str(IMAGES)) as server, Client(server.address) as client:
        yield client


def local(models: Path, case: Case) -> tuple[np.ndarray, list[str]]:
    """Scored in this process."""
    answer = Scorer(models).score(IMAGES / f"{case.file}.tif", model="identity", grid=True, bands=case.bands)
    assert answer.grid is not None
    return answer.grid, list(answer.warnings)


def whole(client: Client, case: Case) -> tuple[np.ndarray, list[str]]:
    """Return the grid and the warnings of a server that gets the file in one message."""
    answer = client.score(IMAGES / f"{case.file}.tif", model="identity", grid=True, bands=case.bands)
    assert answer.grid is not None
    return answer.grid, list(answer.warnings)


def parts(client: Client, case: Case) -> tuple[np.ndarray, list[str]]:
    """Return the grid and the warnings of a server that gets the file in parts."""
    with client.score_large(IMAGES / f"{case.file}.tif", model="identity", grid=True, bands=case.bands) as run:
        return np.concatenate([scores for _, scores in run.bands()]), list(run.planned.warnings)


def check(case: Case, score: Callable[[], tuple[np.ndarray, list[str]]]) -> None:
    """Check that the pixels, the warnings or the error are those of the case."""
    if case.pixels is None:
        with pytest.raises(ImageError) as refused:
            score()
        assert case.refused in str(refused.value)
        assert "damaged" not in str(refused.value)
        return
    grid, warnings = score()
    assert {place: grid[place[1], place[0]].tolist() for place in case.pixels} == case.pixels
    assert [case.warned in warning for warning in warnings] == [True] * bool(case.warned)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_files_are_read_alike_everywhere(case: Case, models: Path, client: Client) -> None:
    """A file has the same pixels, or the same error, in this process and on a server, in one message or in parts."""
    check(case, lambda: local(models, case))
    check(case, lambda: whole(client, case))
    check(case, lambda: parts(client, case))


@pytest.mark.extras
@pytest.mark.parametrize("extra", ["rasterio", "openslide"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_extras_change_no_meaning(case: Case, extra: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one extra installed a file has the same pixels, or the same error, as without extras."""
    monkeypatch.setattr("service.images.files.find_spec", lambda name: find_spec(name) if name == extra else None)
    assert find_spec(extra) is not None
    check(case, lambda: local(models, case))


def written(pixels: np.ndarray, **options: object) -> bytes:
    """Return a TIFF file written by tifffile."""
    file = BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def pixels_of(data: bytes, model_input: model_pb2.Input = RGB) -> np.ndarray:
    picture = open_bytes(data, name="i")
    return picture.rows(model_input).read(0, picture.height)


@pytest.mark.parametrize("tile", [None, (32, 48)], ids=["strips", "tiles"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma"])
def test_compressions(compression: str | None, planar: str, tile: tuple[int, int] | None) -> None:
    """Tiles and strips of every lossless compression decode to the written pixels, for both planar configurations."""
    pixels = noise(101, 90, 3)
    stored = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    data = written(stored, photometric="rgb", planarconfig=planar, compression=compression, tile=tile, rowsperstrip=13)
    assert_array_equal(pixels, pixels_of(data))


@pytest.mark.parametrize(
    ("dtype", "predictor"),
    [("uint8", 2), ("uint16", 2), ("float32", 3), ("float64", 3), ("float16", 3)],
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_predictors(dtype: str, predictor: int, byteorder: str, compression: str) -> None:
    """Predictors are undone for every element type in either byte order."""
    pixels = (noise(61, 50, 4) * 1.5).astype(dtype)
    options = {"photometric": "minisblack", "planarconfig": "contig", "tile": (32, 32), "predictor": predictor}
    data = written(pixels, byteorder=byteorder, compression=compression, **options)
    own = model_pb2.Input(channels=4, dtype="float32", preprocessing=model_pb2.Preprocessing(dtype="float32"))
    assert_array_equal(pixels.astype(np.float32), pixels_of(data, own))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(bits: int) -> None:
    """Grey of 1, 2 and 4 bits is scaled to the range from black to white."""
    levels = np.arange(1 << bits).repeat(7)[None].repeat(9, axis=0) * (255 // ((1 << bits) - 1))
    image = pyvips.Image.new_from_array(levels.astype(np.uint8))
    assert_array_equal(levels, pixels_of(image.write_to_buffer(".tif", bitdepth=bits))[..., 0])


def test_fax() -> None:
    """A page in CCITT group 4 compression decodes to its black and white pixels, strip by strip."""
    pixels = np.where(noise(90, 131, 1) > 100, 255, 0).astype(np.uint8)
    image = pyvips.Image.new_from_array(pixels)
    data = image.write_to_buffer(".tif", compression="ccittfax4", bitdepth=1, tile=False)
    assert_array_equal(pixels[..., 0], pixels_of(data)[..., 0])


@pytest.mark.parametrize("quality", [60, 95], ids=["ycbcr", "rgb"])
def test_jpeg_in_tiff_is_rgb(quality: int) -> None:
    """JPEG tiles stored as YCbCr or as RGB decode to red, green and blue."""
    pixels = np.tile(np.array([200, 30, 90], np.uint8), (64, 64, 1))
    data = pyvips.Image.new_from_array(pixels).write_to_buffer(
        ".tif", compression="jpeg", Q=quality, tile=True, tile_width=64, tile_height=64
    )
    assert np.abs(pixels_of(data).astype(int) - pixels).max() <= 4


@pytest.mark.parametrize("compression", ["raw", "jpeg"])
def test_cmyk_is_converted(compression: str) -> None:
    """CMYK pixels with black ink become dark, both uncompressed and with JPEG compression."""
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[:16, :, 3] = 255
    file = BytesIO()
    Image.fromarray(inks, "CMYK").save(file, "TIFF", compression=compression, quality=95)
    got = pixels_of(file.getvalue())
    assert got[0, 0].max() < 60
    assert got[31, 31].min() > 250


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "zstd", "lzma", "jpeg", "webp"])
@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
def test_damage_is_an_error(compression: str, tile: tuple[int, int] | None) -> None:
    """A strip or tile whose second half is lost is an error; it is not filled with black.

    In Zstandard and WebP data zeros may be valid pixels, so these lose their beginning instead.
    """
    data = bytearray(
        written(noise(200, 200, 3), photometric="rgb", compression=compression, tile=tile, rowsperstrip=64)
    )
    with tifffile.TiffFile(BytesIO(data)) as file:
        offset, size = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    lost = slice(0, 16) if compression in ("zstd", "webp") else slice(size // 2, size)
    data[offset + lost.start : offset + lost.stop] = bytes(lost.stop - lost.start)
    with pytest.raises(errors.ImageError, match=r"cannot be decoded: (damaged|truncated)"):
        pixels_of(bytes(data))


@pytest.mark.parametrize(
    ("photometric", "compression", "kind"),
    [
        (9, 1, "ICCLAB colours"),
        (32803, 1, "raw data of a camera's sensor"),
        (34892, 1, "LinearRaw"),
        (32845, 1, "LogLuv colours"),
        (77, 1, "PhotometricInterpretation 77"),
        (2, 6, "compression, got OJPEG"),
        (2, 34887, "compression, got LERC"),
        (2, 65123, "compression, got number 65123"),
    ],
)
def test_kinds_without_a_rule_are_named(photometric: int, compression: int, kind: str) -> None:
    """Kinds of TIFF that are not supported are refused; the error names the kind and does not call the file damaged."""
    data = bytearray(written(noise(32, 32, 3), photometric="rgb"))
    with tifffile.TiffFile(BytesIO(data)) as file:
        for tag, value in ((262, photometric), (259, compression)):
            at = file.pages[0].tags[tag].valueoffset
            data[at : at + 2] = value.to_bytes(2, "little")
    with pytest.raises(errors.ImageError, match=kind) as refused:
        open_bytes(bytes(data), name="i")
    assert "damaged" not in str(refused.value)


@pytest.mark.parametrize(
    ("extra", "premultiplied"), [("unassalpha", False), ("assocalpha", True)], ids=["unassociated", "associated"]
)
def test_alpha_is_what_the_file_calls_alpha(extra: str, premultiplied: bool) -> None:  # noqa: FBT001
    """Red of half opacity is laid over white exactly once, with premultiplied alpha and without."""
    colour = [128, 0, 0] if premultiplied else RED
    pixels = np.tile(np.array([*colour, 128], np.uint8), (16, 16, 1))
    got = pixels_of(written(pixels, photometric="rgb", extrasamples=[extra]))[0, 0]
    assert np.abs(got.astype(int) - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("nodata", [False, True], ids=["data", "nodata"])
def test_orientation_turns_pixels_and_mask(orientation: int, nodata: bool) -> None:  # noqa: FBT001
    """Each of the eight orientations moves the pixels and the data mask as libvips's autorot does."""
    pixels = np.maximum(noise(20, 30, 1), 1)
    pixels[:4, :6] = 0
    tags = [(274, 3, 1, orientation, False)] + ([(42113, "s", 0, "0", False)] if nodata else [])
    image = pyvips.Image.new_from_array(pixels).copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    turned = image.autorot()
    expected = turned.numpy().reshape(turned.height, turned.width, 1)
    picture = open_bytes(written(pixels[..., 0], photometric="minisblack", extratags=tags), name="i")
    assert (picture.height, picture.width) == expected.shape[:2]
    assert_array_equal(expected, picture.rows(model_pb2.Input(channels=1, dtype="uint8")).read(0, picture.height))
    valid = picture.data_mask()
    assert (valid is not None) == nodata
    if valid is not None:
        assert_array_equal((expected != 0) * 255, valid.read(0, picture.height))


def pages(*images: np.ndarray, **options: object) -> bytes:
    """Return a file with several pages."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for image in images:
            writer.write(image, photometric="rgb", metadata=None, **options)
    return file.getvalue()


def test_the_largest_page_is_the_image() -> None:
    """The largest page is scored, without a warning, even if a smaller page, as a slide's label, precedes it."""
    label, image = noise(16, 16, 3, seed=1), noise(40, 50, 3)
    picture = open_bytes(pages(label, image, label), name="i")
    assert_array_equal(image, picture.rows(RGB).read(0, 40))
    assert picture.warnings(RGB) == []


def test_the_first_of_several_pages_is_scored_and_the_others_are_named(models: Path, tmp_path: Path) -> None:
    """Of three equal pages the first is scored with a warning; `page` selects a page, and page 4 is refused."""
    images = [np.full((20, 20, 3), value, np.uint8) for value in (10, 20, 30)]
    (tmp_path / "pages.tif").write_bytes(pages(*images))
    for page, value in ((0, 10), (1, 10), (3, 30)):
        options: Options = {"page": page} if page else {}
        answer = Scorer(models).score(tmp_path / "pages.tif", model="identity", **options)
        assert answer.average[0] == value
        assert [warning.startswith("page 1 of 3 was scored") for warning in answer.warnings] == [True] * (not page)
    with pytest.raises(ImageError, match="page: expected 1 to 3, got 4"):
        Scorer(models).score(tmp_path / "pages.tif", model="identity", page=4)


def test_previews_of_a_camera_are_not_the_image() -> None:
    """If all pages are reduced copies, as in a DNG, the image in a SubIFD is scored; without one, it is an error."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(noise(16, 16, 3), photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        writer.write(noise(64, 64, 3), photometric="rgb", subfiletype=0, metadata=None)
    assert open_bytes(file.getvalue(), name="i").height == 64
    alone = pages(noise(16, 16, 3), subfiletype=1)
    with pytest.raises(errors.ImageError, match="only pages that are marked as reduced copies or masks"):
        open_bytes(alone, name="i")


def test_a_tile_that_says_it_is_larger_is_refused() -> None:
    """A JPEG tile whose own header claims more pixels than the tile has is refused."""
    data = bytearray(written(noise(64, 64, 3), photometric="rgb", compression="jpeg", tile=(64, 64)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(errors.ImageError, match=r"cannot be decoded: (damaged|truncated)"):
        pixels_of(bytes(data))


def test_tiles_that_a_file_leaves_out_have_no_data() -> None:
    """Tiles that a sparse file of GDAL leaves out hold the nodata value and have no data."""
    pixels = np.full((64, 64), 9, np.uint8)
    data = bytearray(written(pixels, photometric="minisblack", tile=(32, 32), extratags=[(42113, "s", 0, "7", False)]))
    with tifffile.TiffFile(BytesIO(data)) as file:
        for tag in (324, 325):
            at = file.pages[0].tags[tag].valueoffset
            width = file.pages[0].tags[tag].dtype_name
            data[at : at + (2 if "SHORT" in str(width).upper() else 4)] = bytes(
                2 if "SHORT" in str(width).upper() else 4
            )
    picture = open_bytes(bytes(data), name="i")
    valid = picture.data_mask()
    assert valid is not None
    assert valid.read(0, 64)[..., 0].tolist()[0] == [0] * 32 + [255] * 32
    assert pixels_of(bytes(data))[0, 0].tolist() == [7, 7, 7]
