"""Calls of many images and of large images with both clients: the same answers, and servers that stop."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import grpc
import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.servers import Server, running

from fullconv import Answer, AsyncClient, Client, ImageError, RequestError, UnavailableError

MODELS = ROOT / "models"
PAGE = MODELS / "digits" / "page.png"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


@pytest.mark.parametrize("image", [None, 3], ids=["none", "number"])
def test_invalid_large_images_are_refused(server: Server, image: Any) -> None:  # noqa: ANN401
    """An invalid image is an ImageError of `score_large` too."""
    with Client(server.address) as client, pytest.raises(ImageError, match="image: expected a path, bytes, an array"):
        client.score_large(image, model="digits")


def test_many_images_without_ids(server: Server) -> None:
    """Both clients refuse images without ids."""
    with Client(server.address) as client, pytest.raises(RequestError, match="expected pairs of an id and an image"):
        list(client.score_many(["ab", "page.png"], model="digits"))  # type: ignore[list-item]
    with Client(server.address) as client, pytest.raises(RequestError, match="an id and an image, got NoneType"):
        list(client.score_many(None, model="digits"))  # type: ignore[arg-type]

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            async for _ in client.score_many([PAGE], model="digits"):  # type: ignore[list-item]
                pass

    with pytest.raises(RequestError, match="expected pairs of an id and an image"):
        asyncio.run(main())


def test_asyncio_scores_large_images(server: Server) -> None:
    """The asyncio client gives the rows, progress, result and errors of a large image as the other client does."""
    reports: list[tuple[str, int, int]] = []

    async def main() -> tuple[np.ndarray, Answer]:
        async with AsyncClient(server.address, timeout=60) as client:
            with pytest.raises(RequestError, match="no model 'none'"):
                await client.score_large(PAGE, model="none")
            with pytest.raises(ImageError, match="cannot be read"):
                await (await client.score_large("missing.png", model="digits")).result()
            async with await client.score_large(
                PAGE, model="digits", grid=True, progress=lambda *what: reports.append(what)
            ) as run:
                assert len(run.planned.y) == 88
                rows = [scores async for _, scores in run.bands()]
                return np.concatenate(rows), await run.result()

    rows, answer = asyncio.run(main())
    with Client(server.address) as client, client.score_large(PAGE, model="digits", grid=True) as run:
        np.testing.assert_array_equal(rows, np.concatenate([scores for _, scores in run.bands()]))
        np.testing.assert_array_equal(run.result().average, answer.average)
    assert {what for what, _, _ in reports} == {"sending", "scoring"}
    assert reports[-1][1] == reports[-1][2]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_streams_go_on_with_another_server(ending: signal.Signals) -> None:
    """If the server of a ScoreMany stops, another server answers the remaining images, each once."""
    images = [(str(number), noise(200 + number % 7, 200, 1)) for number in range(200)]
    with running(MODELS) as stays, running(MODELS, status=-ending if ending is signal.SIGKILL else 0) as goes:
        with Client(f"{goes.address},{stays.address}", timeout=60) as client:
            got: dict[str, Answer] = {}
            for name, answer in client.score_many(iter(images), model="digits"):
                assert name not in got
                assert isinstance(answer, Answer)
                got[name] = answer
                if len(got) == 20:
                    Thread(target=goes.process.send_signal, args=[ending]).start()
            for name, image in images[::17]:
                np.testing.assert_array_equal(got[name].average, client.score(image, model="digits").average)
        assert got.keys() == {name for name, _ in images}


def test_streams_that_end_before_the_plan() -> None:
    """A ScoreLarge that ends before its plan is an UnavailableError, for both clients."""
    nothing = grpc.stream_stream_rpc_method_handler(lambda _requests, _context: iter(()))
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_registered_method_handlers("fullconv.v1.Scoring", {"ScoreLarge": nothing})
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    async def asynchronously() -> None:
        async with AsyncClient(address) as client:
            await client.score_large(noise(80, 80, 1), model="digits")

    with Client(address) as client, pytest.raises(UnavailableError, match="before it sent the summary"):
        client.score_large(noise(80, 80, 1), model="digits")
    with pytest.raises(UnavailableError, match="before it sent the summary"):
        asyncio.run(asynchronously())
    server.stop(None)
