"""Malformed answers: one clear line and exit status 1, one UnavailableError, and nothing half-written."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hostile_servers import ChangedServicer, Parts, babbling, serving
from support.malformed_answers import (
    ANSWERS,
    COLS,
    MANY,
    MODELS,
    PIXELS,
    ROWS,
    STREAMS,
    doubled_class,
    setting,
)
from support.pictures import noise, png
from typer.testing import CliRunner, Result

from fullconv import Answer, AsyncClient, Client, ScoringError, UnavailableError
from fullconv.command import sending
from fullconv.command.cli import app
from fullconv.protos import scoring_pb2


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[ChangedServicer, str]]:
    """A server whose answers a test changes, and its address."""
    servicer = ChangedServicer()
    with serving(servicer) as address:
        yield servicer, address


@pytest.fixture
def servicer(server: tuple[ChangedServicer, str]) -> Iterator[ChangedServicer]:
    """What the server answers with. The changes of a test end with the test."""
    yield server[0]
    server[0].changes.clear()


@pytest.fixture
def address(server: tuple[ChangedServicer, str]) -> str:
    """The server's address."""
    return server[1]


def command(address: str, *arguments: object) -> Result:
    """Run fullconv-score with a server."""
    return CliRunner().invoke(app, [*map(str, arguments), "--model", "digits", "--server", address])


def assert_refused(result: Result, said: str, folder: Path) -> None:
    """The command ended with status 1 and one printable line of error, and left nothing in a folder."""
    assert result.exit_code == 1, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.isprintable()
    assert said in line
    assert not list(folder.iterdir())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The pixels as a file, which goes in one message."""
    path = tmp_path / "image.png"
    path.write_bytes(png(PIXELS))
    return path


@pytest.fixture
def array(tmp_path: Path) -> Path:
    """The pixels as an array, which goes in parts."""
    path = tmp_path / "image.npy"
    np.save(path, PIXELS)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder."""
    path = tmp_path / "out"
    path.mkdir()
    return path


def both(address: str, ask: Callable[[Client], object], ask_asynchronously: Callable[[AsyncClient], Any]) -> list[str]:
    """Return the messages of the UnavailableErrors that both clients raise."""

    async def asynchronously() -> None:
        async with AsyncClient(address, timeout=30, retries=0) as client:
            await ask_asynchronously(client)

    with Client(address, timeout=30, retries=0) as client, pytest.raises(UnavailableError) as one:
        ask(client)
    with pytest.raises(UnavailableError) as other:
        asyncio.run(asynchronously())
    return [str(one.value), str(other.value)]


def test_the_server_is_honest_without_a_change(address: str, image: Path, array: Path, out: Path) -> None:
    """Every kind of answer passes the checks if nothing is changed."""
    for path in (image, array):
        assert command(address, path, "--grid", out / "grid.npz").exit_code == 0
        assert command(address, path, "--plan").exit_code == 0
    with Client(address) as client:
        answers = dict(client.score_many([("a", image), ("b", PIXELS)], model="digits", grid="top"))
        assert all(isinstance(answer, Answer) for answer in answers.values())
        assert ("digits", "1") in client.models()


@pytest.mark.parametrize("kind", ANSWERS)
def test_malformed_answers(servicer: ChangedServicer, address: str, kind: str, image: Path, out: Path) -> None:
    """A malformed answer of Score is an UnavailableError, and exit status 1 of the command, which writes nothing."""
    change, said = ANSWERS[kind]
    servicer.changes["Score"] = change
    assert_refused(command(address, image, "--json", "--grid", out / "grid.npz"), said, out)
    for message in both(
        address,
        lambda client: client.score(image, model="digits", grid=True),
        lambda client: client.score(image, model="digits", grid=True),
    ):
        assert message.startswith(f"{address}: INTERNAL: answer: ")
        assert said in message
        assert message.isprintable()


@pytest.mark.parametrize("kind", STREAMS)
def test_malformed_streams(servicer: ChangedServicer, address: str, kind: str, array: Path, out: Path) -> None:
    """A malformed part of ScoreLarge, or a part out of order, ends the call with the same error and leaves no file."""
    change, said = STREAMS[kind]
    servicer.changes["ScoreLarge"] = change
    assert_refused(command(address, array, "--grid", out / "grid.npz", "--heatmap", out / "heat.png"), said, out)

    def take(client: Client) -> None:
        with client.score_large(PIXELS, model="digits", grid=True) as stream:
            stream.result()

    async def take_asynchronously(client: AsyncClient) -> None:
        async with await client.score_large(PIXELS, model="digits", grid=True) as stream:
            await stream.result()

    for message in both(address, take, take_asynchronously):
        assert said in message


@pytest.mark.parametrize("kind", MANY)
def test_malformed_answers_of_many(servicer: ChangedServicer, address: str, kind: str) -> None:
    """An answer without a known id ends ScoreMany; any other malformed answer is the error of its image alone."""
    change, said = MANY[kind]
    servicer.changes["ScoreMany"] = change
    images = [("a", PIXELS), ("b", PIXELS)]

    def failures(results: list[tuple[str, Answer | ScoringError]]) -> None:
        raise next(result for name, result in results if name == "a" and isinstance(result, ScoringError))

    async def take(client: AsyncClient) -> None:
        failures([result async for result in client.score_many(images, model="digits")])

    for message in both(address, lambda client: failures(list(client.score_many(images, model="digits"))), take):
        assert said in message


def test_a_malformed_answer_does_not_stop_the_other_images(
    servicer: ChangedServicer, address: str, image: Path, tmp_path: Path
) -> None:
    """Of several images one has a malformed answer: the other is scored, and the exit status is 3."""
    other = tmp_path / "other.png"
    other.write_bytes(png(PIXELS))
    servicer.changes["ScoreMany"] = MANY["a malformed answer"][0]
    result = command(address, image, other)
    assert result.exit_code == 3
    assert "other.png" in result.stdout
    (line,) = result.stderr.splitlines()
    assert "INTERNAL: answer: average.top: expected 0 to 10, got 11" in line


@pytest.mark.parametrize("kind", MODELS)
def test_malformed_descriptions(servicer: ChangedServicer, address: str, kind: str, image: Path, out: Path) -> None:
    """A malformed answer of GetModel is the same error."""
    change, said = MODELS[kind]
    servicer.changes["GetModel"] = change
    assert_refused(command(address, image, "--heatmap", out / "heat.png"), said, out)
    for message in both(address, lambda client: client.model("digits"), lambda client: client.model("digits")):
        assert said in message


@pytest.mark.parametrize("name", ["", "a/b", "\x1b]0;title\x07", "x" * 200])
def test_malformed_lists_of_models(servicer: ChangedServicer, address: str, name: str) -> None:
    """A list with a name that no model can have is the same error."""
    servicer.changes["ListModels"] = setting("models.0.name", name)
    for message in both(address, Client.models, AsyncClient.models):
        assert "models: expected names and versions of models" in message
        assert message.isprintable()


def test_scores_that_were_not_requested(servicer: ChangedServicer, address: str, image: Path, array: Path) -> None:
    """Scores in the answer to a request without a grid are refused."""
    servicer.changes["Score"] = setting("scores", b"\0" * 792)
    assert "scores: expected 0 bytes, got 792 bytes" in command(address, image).stderr
    row = scoring_pb2.ScoreLargeResponse(rows=scoring_pb2.GridRows(count=1, scores=b"\0" * 264))
    servicer.changes["ScoreLarge"] = lambda parts: [parts[0], row, *parts[1:]]
    assert "rows: expected none, because no grid was requested, got 1" in command(address, array).stderr


def test_other_classes_than_requested(servicer: ChangedServicer, address: str, image: Path) -> None:
    """Classes that were not requested, or come twice, are refused."""
    servicer.changes["Score"] = lambda answer: answer.classes[0].MergeFrom(scoring_pb2.Class(index=9, label="9"))
    assert "classes: expected the requested classes, got '9'" in command(address, image, "--classes", "3,5").stderr
    servicer.changes["Score"] = doubled_class
    assert "classes.index: expected each class once" in command(address, image, "--classes", "3,5").stderr


def test_positions_beyond_the_classes(servicer: ChangedServicer, address: str) -> None:
    """A position that is no class is refused."""
    servicer.changes["Score"] = setting("positions", b"\xff" * ROWS * COLS * 4)
    for message in both(
        address,
        lambda client: client.score(PIXELS, model="digits", grid="argmax"),
        lambda client: client.score(PIXELS, model="digits", grid="argmax"),
    ):
        assert "positions: expected 0 to 10, got 4294967295" in message


def test_windows_outside_the_region(servicer: ChangedServicer, address: str, image: Path) -> None:
    """Windows outside of the requested region are refused, and an image that does not hold the region."""
    servicer.changes["Score"] = setting("grid.origin_x", 0)
    result = command(address, image, "--roi", "16,0,90,90")
    assert "grid.origin_x: expected at least 16, got 0" in result.stderr
    servicer.changes["Score"] = setting("image.width", 100)
    result = command(address, image, "--roi", "16,0,90,90")
    assert "image.width: expected at least 106, got 100" in result.stderr


def test_another_stride_and_mode_than_requested(servicer: ChangedServicer, address: str, image: Path) -> None:
    """An answer with another stride or mode than the requested one is refused."""
    servicer.changes["Score"] = setting("grid.stride.width", 8)
    assert "grid.stride: expected (4, 4), got (4, 8)" in command(address, image, "--stride", "4").stderr
    servicer.changes["Score"] = setting("mode", "crops")
    assert "mode: expected dense, got 'crops'" in command(address, image, "--mode", "dense").stderr


@pytest.mark.parametrize("kind", ["no view", "too many rows", "a cost that is NaN", "an unknown mode"])
def test_malformed_plans(servicer: ChangedServicer, address: str, kind: str, image: Path, out: Path) -> None:
    """A malformed plan is the same error."""
    change, said = ANSWERS[kind]

    def change_start(parts: Parts) -> None:
        change(parts[0].start)

    servicer.changes["ScoreLarge"] = change_start
    assert_refused(command(address, image, "--plan", "--json"), said, out)
    for message in both(
        address,
        lambda client: client.plan(image, model="digits"),
        lambda client: client.plan(image, model="digits"),
    ):
        assert said in message


def test_a_description_of_more_classes_than_the_answer(
    servicer: ChangedServicer, address: str, image: Path, out: Path
) -> None:
    """A heatmap of a class that the answer lacks is one line, not a traceback."""

    def more_classes(model: scoring_pb2.GetModelResponse) -> None:
        model.spec.output.classes += 1
        model.labels.append("more")

    servicer.changes["GetModel"] = more_classes
    result = command(address, image, "--heatmap", out / "heat.png", "--heatmap-class", "more")
    assert_refused(result, "classes: expected class 11 of the model's description in the answer, got 11 other", out)


def test_the_grid_of_another_image(
    servicer: ChangedServicer, address: str, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consistent answer for a larger image than the file that was sent is refused before a row is written."""
    monkeypatch.setattr(sending, "LARGE_PIXELS", 0)  # the file is sent in parts
    assert command(address, image, "--grid", out / "grid.npz").exit_code == 0
    (out / "grid.npz").unlink()
    larger = scoring_pb2.Image(name=image.name, encoded=png(noise(900, 111, 1)))
    message = scoring_pb2.ScoreRequest(model="digits", options=scoring_pb2.ScoreOptions(grid=True), image=larger)
    servicer.changes["ScoreLarge"] = lambda _: servicer.parts(message)
    result = command(address, image, "--grid", out / "grid.npz")
    assert_refused(result, "expected an answer for 111×90 pixels (width×height), got an answer for 111×900", out)


def test_bytes_that_are_no_message(image: Path, array: Path, out: Path) -> None:
    """Bytes that cannot be parsed cause one line of error, and no traceback, also none in gRPC's log."""
    with babbling() as address:
        for arguments in ([image, "--grid", out / "grid.npz"], [array], [image, image], [image, "--plan"]):
            assert_refused(command(address, *arguments), "INTERNAL", out)
        images = [("a", PIXELS)]

        async def many(client: AsyncClient) -> None:
            [result async for result in client.score_many(images, model="digits")]

        async def large(client: AsyncClient) -> None:
            await client.score_large(PIXELS, model="digits")

        pairs: list[tuple[Callable[[Client], object], Callable[[AsyncClient], Any]]] = [
            (lambda client: client.score(PIXELS, model="digits"), lambda client: client.score(PIXELS, model="digits")),
            (lambda client: list(client.score_many(images, model="digits")), many),
            (lambda client: client.score_large(PIXELS, model="digits"), large),
            (lambda client: client.model("digits"), lambda client: client.model("digits")),
            (Client.models, AsyncClient.models),
        ]
        for ask, ask_asynchronously in pairs:
            assert all("INTERNAL" in message for message in both(address, ask, ask_asynchronously))
