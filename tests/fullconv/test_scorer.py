"""`Scorer`, which has the calls of the client, and the forms of images that all calls take."""

import asyncio
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from support.conversion import convert_into
from support.networks import UNPADDED, make_network
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import Server, running

from fullconv import Answer, AsyncClient, Client, ImageError, RequestError, Scorer, ScoringError, UnavailableError
from fullconv.images import ArraySource, source_of
from fullconv.plan import Plan

MODELS = ROOT / "models"
PIXELS = noise(90, 111, 1)[..., 0]
ALPHA = np.dstack([noise(90, 111, 3), noise(90, 111, 1, seed=1)])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


@pytest.fixture
def files() -> Iterator[ExitStack]:
    """Yield files that are closed after the test."""
    with ExitStack() as stack:
        yield stack


def document(answer: Answer) -> dict[str, Any]:
    """Return the answer's JSON without times and the image's name, which depends on the form."""
    shown = answer.document()
    del shown["image"]["name"], shown["timing_ms"]
    return shown


def without_decoding(plan: Plan) -> Plan:
    """Return a plan without the cost of decoding, which depends on the form of the image."""
    return replace(plan, bytes=plan.bytes - plan.decode_bytes, decode_bytes=0.0, decode_seconds=0.0)


def file_of(folder: Path) -> Path:
    path = folder / "page.png"
    path.write_bytes(png(PIXELS))
    return path


def array_file_of(folder: Path) -> Path:
    np.save(folder / "page.npy", PIXELS)
    return folder / "page.npy"


def zarr_of(folder: Path) -> Any:  # noqa: ANN401 (zarr's)
    import zarr  # noqa: PLC0415 (an extra)

    array = zarr.create_array(folder / "page.zarr", shape=PIXELS.shape, chunks=(64, 64), dtype="uint8")
    array[:] = PIXELS
    return array


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": file_of,
    "text": lambda folder: str(file_of(folder)),
    "bytes": lambda folder: file_of(folder).read_bytes(),
    "array": lambda _: PIXELS,
    "array's file": array_file_of,
    "PIL": lambda _: Image.fromarray(PIXELS),
    "PIL's file": lambda folder: Image.open(file_of(folder)),
    "PIL with a palette": lambda _: Image.fromarray(PIXELS).convert("P"),
    "PIL with alpha": lambda _: Image.fromarray(PIXELS).convert("RGBA"),
    "binary file": lambda folder: file_of(folder).open("rb"),
    "bytes in memory": lambda folder: io.BytesIO(file_of(folder).read_bytes()),
}


@pytest.mark.parametrize("form", [*FORMS, pytest.param("Zarr", marks=pytest.mark.extras)])
def test_one_image_in_every_form(server: Server, tmp_path: Path, files: ExitStack, form: str) -> None:
    """Scorer, Client and AsyncClient give the same answer for an image in every form, whole and in parts."""
    expected = Scorer(MODELS).score(PIXELS, model="digits", grid=True)
    make = (FORMS | {"Zarr": zarr_of})[form]

    def make_image() -> Any:  # noqa: ANN401 (a form)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        image = make(folder)
        return files.enter_context(image) if isinstance(image, io.IOBase) else image

    async def main() -> list[Answer]:
        async with AsyncClient(server.address) as client:
            whole = await client.score(make_image(), model="digits", grid=True)
            async with await client.score_large(make_image(), model="digits") as stream:
                return [whole, await stream.result()]

    answers = asyncio.run(main())
    with Client(server.address) as client:
        for scorer in (client, Scorer(MODELS)):
            answers.append(scorer.score(make_image(), model="digits", grid=True))
            with scorer.score_large(make_image(), model="digits") as stream:
                answers.append(stream.result())
            ((name, answer),) = scorer.score_many([("a", make_image())], model="digits")
            assert name == "a"
            assert isinstance(answer, Answer)
            answers.append(answer)
            plan = scorer.plan(make_image(), model="digits", grid=True)
            assert plan.header.shape == expected.header.shape
            assert without_decoding(plan.plan) == without_decoding(expected.plan)
    for answer in answers:
        assert document(answer) == document(expected)
        assert_array_equal(expected.average, answer.average)
        if answer.grid is not None:
            assert_array_equal(expected.grid, answer.grid)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16", "RGB"])
def test_pil_images_score_like_their_files(tmp_path: Path, mode: str) -> None:
    """PIL images with transparency, palettes, single bits and 16 bits score like their PNG files."""
    models = convert_into(tmp_path / "models", make_network(tmp_path, UNPADDED))
    image = Image.fromarray(ALPHA)
    if mode == "I;16":
        image = Image.fromarray(PIXELS.astype(np.uint16) * 257)
    else:
        image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "image.png")
    scorer = Scorer(models)
    expected, answer = (scorer.score(one, model="unpadded") for one in (tmp_path / "image.png", image))
    assert document(answer) == document(expected)
    assert_array_equal(expected.average, answer.average)


def test_pil_images_are_rotated_by_exif(tmp_path: Path) -> None:
    """A PIL image is rotated as its EXIF orientation says, like its file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path, exif=exif)
    scorer = Scorer(MODELS)
    answers = [scorer.score(image, model="digits") for image in (path, Image.open(path))]
    assert [(answer.image.width, answer.image.height, answer.image.name) for answer in answers] == [
        (90, 111, "photo.png")
    ] * 2
    assert_array_equal(answers[0].average, answers[1].average)


def test_pil_images_of_floats_are_own_values() -> None:
    """A PIL image of floats is refused by a model of 8-bit pixels."""
    with pytest.raises(ImageError, match="expected unsigned values of 8 or 16 bits, got 1 band of float32"):
        Scorer(MODELS).score(Image.new("F", (99, 99)), model="digits")


class Tensor:
    """An array of another library."""

    shape, dtype = (90, 111), "float7"


@pytest.mark.parametrize(
    ("image", "expected_message"),
    [
        (None, "image: expected a path, bytes, an array, a PIL image or an open binary file, got NoneType"),
        (Image.new("CMYK", (99, 99)), 'got CMYK; convert it with .convert("RGB")'),
        (io.StringIO("text"), "image: expected a file that is open in binary mode, got a file that reads str"),
        (Tensor(), "image: expected an array of numpy or Zarr, got Tensor"),
        (np.zeros((9, 9), complex), "image: expected (height, width[, channels]) of uint8"),
    ],
    ids=["none", "CMYK", "text file", "tensor", "complex"],
)
def test_objects_that_are_not_images(image: Any, expected_message: str) -> None:  # noqa: ANN401 (anything)
    """Objects that are not images are refused; the error names the expected and the actual type; so are masks."""
    scorer = Scorer(MODELS)
    with pytest.raises(ImageError) as caught:
        scorer.score(image, model="digits")
    assert expected_message in str(caught.value)
    with pytest.raises(ImageError) as caught:
        scorer.score(PIXELS, model="digits", mask=image)
    assert expected_message.replace("image: ", "mask: ") in str(caught.value)


def test_many_images_have_masks_of_their_own(server: Server) -> None:
    """The options in the third element apply to that image only, in this process and on a server."""
    mask = np.zeros(PIXELS.shape, np.bool_)
    mask[:80] = True
    items: list[Any] = [("all", PIXELS), ("part", PIXELS, {"mask": mask}), ("bad", PIXELS, {"stride": 0}), ("no", b"x")]
    with Client(server.address) as client:
        for scorer in (client, Scorer(MODELS)):
            found = dict(scorer.score_many(iter(items), model="digits"))
            assert sorted(found) == ["all", "bad", "no", "part"]
            scored = {name: answer.scored for name, answer in found.items() if isinstance(answer, Answer)}
            assert scored == {"all": 3 * 6, "part": 2 * 6}
            assert (type(found["bad"]), type(found["no"])) == (RequestError, ImageError)


def test_large_images_are_scored_row_by_row() -> None:
    """`score_large` gives the rows from top to bottom, reports all tiles, and ends with the answer of `score`."""
    scorer, pixels, reports = Scorer(MODELS), noise(1500, 900, 1), []
    expected = scorer.score(pixels, model="digits", grid="top", grid_top=2)
    with scorer.score_large(
        pixels, model="digits", grid="top", grid_top=2, progress=lambda *what: reports.append(what)
    ) as stream:
        assert stream.planned.header == expected.header
        rows = list(stream.rows())
        answer = stream.result()
    assert [part.first for part in rows] == [0, *np.cumsum([len(part.scores) for part in rows])[:-1]]
    assert_array_equal(expected.grid, np.concatenate([part.scores for part in rows]))
    assert_array_equal(expected.winners, np.concatenate([part.positions for part in rows]))
    assert_array_equal(expected.average, answer.average)
    tiles = sum(view.tiles for view in expected.plan.views)
    assert reports[-1] == ("scoring", tiles, tiles)


def test_results_without_taking_rows() -> None:
    """`result` scores the rows that were not taken, and always returns the same answer."""
    scorer, pixels = Scorer(MODELS), noise(700, 700, 1)
    expected = scorer.score(pixels, model="digits").average
    stream = scorer.score_large(pixels, model="digits", grid=True)
    next(stream.bands())
    for one in (stream, scorer.score_large(pixels, model="digits")):
        assert_array_equal(expected, one.result().average)
        assert one.result() is one.result()


def test_errors_while_rows_are_taken_stay(tmp_path: Path) -> None:
    """A damaged file is an error when its rows are taken, and again when the result is taken."""
    path = tmp_path / "cut.png"
    whole = png(noise(800, 800, 1))
    path.write_bytes(whole[: len(whole) // 2])
    stream = Scorer(MODELS).score_large(path, model="digits", grid=True)
    with pytest.raises(ImageError, match=r"cut\.png: expected a complete"):
        list(stream.bands())
    with pytest.raises(ImageError, match=r"cut\.png: expected a complete"):
        stream.result()


def test_a_timeout_ends_the_work() -> None:
    """A call that takes longer than its timeout is an UnavailableError; an invalid timeout is refused."""
    for scorer, timeout in ((Scorer(MODELS, timeout=1e-3), None), (Scorer(MODELS), 1e-3)):
        with pytest.raises(UnavailableError, match=r"timeout: expected an answer within 0\.001 seconds"):
            scorer.score(noise(900, 900, 1), model="digits", timeout=timeout)
        ((_, error),) = scorer.score_many([("a", noise(900, 900, 1))], model="digits", timeout=timeout)
        assert isinstance(error, ScoringError)
    with pytest.raises(RequestError, match="timeout: expected seconds"):
        Scorer(MODELS, timeout=0)
    with pytest.raises(RequestError, match="timeout: expected seconds"):
        Scorer(MODELS).score(PIXELS, model="digits", timeout=-1)


def test_small_tiles_need_less_memory() -> None:
    """`tile_mib` limits the activations of a tile; the scores agree."""
    image = noise(1200, 900, 1)
    small, large = (Scorer(MODELS, provider="cpu", tile_mib=mib) for mib in (8, 1024))
    plans = [scorer.plan(image, model="digits").plan for scorer in (small, large)]
    assert plans[0].views[0].tiles > 2 * plans[1].views[0].tiles
    assert plans[0].bytes < plans[1].bytes / 2
    few, many = (np.asarray(scorer.score(image, model="digits", grid=True).grid) for scorer in (large, small))
    assert np.abs(few - many).max() < 1e-5 * np.abs(few).max()


@pytest.mark.parametrize("tile_mib", [0, -1, 1.5, True, "8", 1 << 40])
def test_wrong_sizes_of_tiles_are_refused(tile_mib: Any) -> None:  # noqa: ANN401 (values of any type)
    """A limit on the memory of a tile is a whole number of MiB."""
    with pytest.raises(RequestError, match="tile_mib: expected a whole number of MiB from 1 to 1073741824, got"):
        Scorer(MODELS, tile_mib=tile_mib)


def test_models_are_described_alike(server: Server) -> None:
    """Scorer and Client describe a model with the same plain values."""
    with Client(server.address) as client, Scorer(MODELS) as scorer:
        assert client.models() == scorer.models() == [("digits", "1")]
        described = scorer.model("digits")
        assert described == client.model("digits")
    assert (described.name, described.version, described.window) == ("digits", "1", (70, 70))
    assert (described.stride, described.strides, described.modes) == ((8, 8), ((8, 8),), ("dense", "crops"))
    assert (described.output.kind, described.output.classes) == ("logits-softmax", 11)
    assert (described.input.dtype, described.input.channels, described.input.order) == ("uint8", 1, "GRAY")
    assert described.parity[8, 8].exact
    assert described.limits.image_pixels == 256_000_000
    with pytest.raises(RequestError, match="model: no model 'cats'"):
        Scorer(MODELS).model("cats")
    with pytest.raises(RequestError, match="name: expected text, got 3"):
        Scorer(MODELS).model(3)  # type: ignore[arg-type]


def test_without_a_directory_of_models(tmp_path: Path) -> None:
    """A missing directory of models is a RequestError that names it."""
    with pytest.raises(RequestError, match=r"models: expected a directory of models, got .*none"):
        Scorer(tmp_path / "none")


def test_images_are_opened_while_another_thread_imports_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL's module has no class of images until its import has ended; an array is no image of PIL then."""
    monkeypatch.setitem(sys.modules, "PIL.Image", ModuleType("PIL.Image"))
    assert isinstance(source_of(PIXELS), ArraySource)
