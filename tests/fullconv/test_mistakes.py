"""A mistake gives the same error, message, JSON and exit status in this process and on a server."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.conversion import convert_into
from support.networks import PADDED, UNPADDED, make_network
from support.paths import ROOT
from support.pictures import encode, noise, png
from support.servers import Server, running
from typer.testing import CliRunner

from fullconv import AsyncClient, ImageError, RequestError, ScoringError
from fullconv.command.cli import app
from fullconv.encode import image_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2
from fullconv.remote.servers import Servers
from fullconv.remote.transport import RemoteTransport
from fullconv.transport import ManyItem, ignore_progress
from service.local import LocalTransport

Image, Options, Scale = scoring_pb2.Image, scoring_pb2.ScoreOptions, scoring_pb2.Scale
Case = tuple[str, dict[str, Any], type[ScoringError], str]
"""An image, the fields of a request, the error, and a part of its message. A mask is given by its path."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with valid and damaged models, and valid and damaged images."""
    folder = tmp_path_factory.mktemp("mistakes")
    models, network = folder / "models", make_network(folder, UNPADDED)
    shutil.move(convert_into(folder / "raw", network, activation="none") / "unpadded", models / "raw")
    shutil.move(convert_into(folder / "crops", network, crops_only=True) / "unpadded", models / "crops")
    convert_into(models, make_network(folder, PADDED))
    for name in ("digits", "broken"):
        shutil.copytree(ROOT / "models" / "digits" / "1", models / name / "1")
    (models / "broken" / "1" / "labels.txt").write_text("a\n")
    files = {
        "good.png": png(noise(100, 120, 1)),
        "small.png": png(noise(50, 120, 1)),
        "text.png": b"no image",
        "a\nb.png": b"no image",
        "cut.jpg": encode(noise(200, 200, 3), ".jpg")[:-2000],
        "other.png": png(noise(90, 120, 1)),
        "black.png": png(np.zeros((100, 120, 1), np.uint8)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    np.save(folder / "small.npy", noise(50, 120, 1))
    np.save(folder / "bands.npy", noise(100, 120, 7))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Yield a server of these models."""
    with running(folder / "models") as server:
        yield server


def of_model(**request: Any) -> Case:
    return ("good.png", request, RequestError, request.pop("expected_message"))


def of_option(expected_message: str, model: str = "digits", **options: Any) -> Case:
    return ("good.png", {"model": model, "options": Options(**options)}, RequestError, expected_message)


def of_image(image: str, expected_message: str, **options: Any) -> Case:
    return (image, {"model": "digits", "options": Options(**options)}, ImageError, expected_message)


REGION = scoring_pb2.Region(x=0, y=0, width=500, height=500)
MISTAKES: dict[str, Case] = {
    "model": of_model(
        model="none", expected_message="model: no model 'none'; available: broken, crops, digits, padded, raw"
    ),
    "version": of_model(model="digits", version="9", expected_message="version: no version '9' of model 'digits'"),
    "long name": of_model(model="m" * 256, expected_message="names: expected at most 255 letters, got 256: mmm"),
    "damaged model": of_model(model="broken", expected_message="broken/1/labels.txt: expected sha256"),
    "class": of_option("classes: expected labels of model 'digits' or 0 to 10, got 'cat'", classes=["cat"]),
    "long class": of_option("names: expected at most 255 letters, got 300", classes=["c" * 300]),
    "odd class": of_option(r"got 'a\nb'", classes=["a\nb"]),
    "stride of dense": of_option("stride: expected a divisor or a multiple of 8 pixels", "padded", stride=3),
    "mode": of_option("looks at whole windows and cannot slide", "crops", mode=scoring_pb2.MODE_DENSE),
    "huge stride": of_option("stride: expected at most 1048576 pixels, got 1048577", stride=(1 << 20) + 1),
    "odd average": of_option("average: expected a value of AverageOf, got 7", average=7),
    "raw scores": of_option("expected scores, got probabilities", "raw", average=scoring_pb2.AVERAGE_OF_PROBABILITIES),
    "many scales": of_option("scales: expected at most 16, got 17", scales=[Scale(factor=1)] * 17),
    "no scale": of_option("scales: expected a positive number of pixels", scales=[Scale()]),
    "text": of_image("text.png", "text.png: expected a JPEG, PNG, WebP or TIFF image, got text"),
    "odd name": of_image("a\nb.png", "a?b.png: expected a JPEG, PNG, WebP or TIFF image, got text"),
    "cut short": of_image("cut.jpg", "cut.jpg: expected a complete JPEG file, got a truncated file"),
    "missing": of_image("gone.png", "gone.png: cannot be read: No such file or directory"),
    "small": of_image(
        "small.png", "small.png: expected at least the model's window of 70×70 pixels (height×width), got 50×120"
    ),
    "small array": of_image("small.npy", "small.npy: expected at least the model's window of 70×70"),
    "bands": of_image("bands.npy", "7 bands"),
    "region": of_image("good.png", "region: expected pixels inside the image of 100×120 (height×width)", region=REGION),
    "small scale": of_image("good.png", "scales: expected at least the model's window", scales=[Scale(factor=0.1)]),
    "mask's size": of_image(
        "good.png", "mask: expected the image's size, 100×120 pixels (height×width)", mask_image=Image(path="other.png")
    ),
    "empty mask": of_image(
        "good.png", "mask: expected at least one window to score", mask_image=Image(path="black.png")
    ),
    "no mask": of_image("good.png", "text.png: expected a JPEG", mask_image=Image(path="text.png")),
}


def request_of(folder: Path, case: Case) -> tuple[Path, scoring_pb2.ScoreRequest]:
    """Return the image and the request of a case."""
    image, fields, _, _ = case
    request = scoring_pb2.ScoreRequest(**fields)
    if request.options.HasField("mask_image"):
        request.options.mask_image.CopyFrom(image_message(source_of(folder / request.options.mask_image.path)))
    return folder / image, request


def score_in_process(folder: Path, image: Path, request: scoring_pb2.ScoreRequest) -> None:
    """Score an image in this process."""
    LocalTransport(folder / "models").score(request, source_of(image), None)


def ways(server: Server, image: Path, request: scoring_pb2.ScoreRequest) -> Iterator[Callable[[], object]]:
    """Yield every way to score on a server; the request may have options that no keyword makes."""

    def in_one_message(transport: RemoteTransport) -> object:
        return transport.score(request, source_of(image), None)

    def one_of_many(transport: RemoteTransport) -> object:
        ((_, result),) = transport.score_many([ManyItem("", lambda: (request, source_of(image)))], None)
        if isinstance(result, Exception):
            raise result
        return result

    def in_parts(transport: RemoteTransport) -> object:
        stream = transport.stream(request, source_of(image), None, ignore_progress)
        return list(stream.rows())

    async def asynchronously() -> object:
        async with AsyncClient(server.address) as client:
            return await client._score(request, source_of(image), None)  # noqa: SLF001 (options that no keyword makes)

    def with_transport(score: Callable[[RemoteTransport], object]) -> object:
        transport = RemoteTransport(Servers(server.address, None, timeout=None, retries=8))
        try:
            return score(transport)
        finally:
            transport.close()

    for score in (in_one_message, one_of_many, in_parts):
        yield partial(with_transport, score)
    yield lambda: asyncio.run(asynchronously())


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_the_same_errors_everywhere(folder: Path, server: Server, kind: str) -> None:
    """The error has the same class and message in this process and in every call of a server."""
    _, _, error, expected_message = MISTAKES[kind]
    image, request = request_of(folder, MISTAKES[kind])
    with pytest.raises(error) as local:
        score_in_process(folder, image, request)
    assert expected_message in str(local.value)
    for score in ways(server, image, request):
        with pytest.raises(ScoringError) as remote:
            score()
        assert (type(remote.value), str(remote.value)) == (type(local.value), str(local.value))


COMMANDS: dict[str, tuple[list[str], int]] = {
    "model": (["good.png", "--model", "none"], 3),
    "version": (["good.png", "--version", "9"], 3),
    "class": (["good.png", "--classes", "cat"], 3),
    "stride": (["good.png", "--model", "padded", "--stride", "3"], 3),
    "many scales": (["good.png", "--scales", ",".join(["1x"] * 17)], 3),
    "many scales of two images": (["good.png", "small.png", "--scales", ",".join(["1x"] * 17)], 3),
    "plan": (["good.png", "--plan", "--scales", ",".join(["1x"] * 17)], 3),
    "raw scores": (["good.png", "--model", "raw", "--average", "probabilities"], 2),
    "damaged model": (["good.png", "--model", "broken"], 3),
    "text": (["text.png"], 3),
    "text among others": (["good.png", "text.png", "a\nb.png", "gone.png", "small.npy"], 3),
    "region": (["good.png", "--roi", "0,0,500,500"], 3),
    "mask": (["good.png", "--mask", "other.png"], 3),
    "small scale": (["good.png", "--scales", "5"], 3),
    "array": (["bands.npy"], 3),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_mistakes_are_the_same_to_the_command(
    folder: Path, server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit status, the JSON and the error messages are the same with and without --server."""
    monkeypatch.chdir(folder)
    arguments, status = COMMANDS[kind]
    results = []
    for option in (["--models", "models"], ["--server", server.address]):
        result = CliRunner().invoke(app, ["--model", "digits", *arguments, *option, "--json"])
        results.append((result.exit_code, without_times(result.stdout), sorted(result.stderr.splitlines())))
    assert results[0] == results[1]
    assert results[0][0] == status


def without_times(printed: str) -> object:
    """Return the printed JSON without times, if there is any."""
    document = json.loads(printed) if printed else None
    for one in document if isinstance(document, list) else [document or {}]:
        one.pop("timing_ms", None)
    return document


@pytest.mark.parametrize("options", [["--mask", "otsu"], ["--scales", "1x,0.9x"]], ids=str)
def test_arrays_that_are_read_twice(
    folder: Path, server: Server, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array whose pixels are needed twice is sent in one message, and gets the same answer as in this process."""
    monkeypatch.chdir(folder)
    np.save("array.npy", noise(100, 120, 1))
    results = []
    for option in (["--models", "models"], ["--server", server.address]):
        result = CliRunner().invoke(app, ["array.npy", "--model", "digits", *options, *option, "--json"])
        assert result.exit_code == 0, result.stderr
        results.append(without_times(result.stdout))
    assert results[0] == results[1]
