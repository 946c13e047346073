"""Both clients: retries, several servers, deadlines, and the same answers."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import FailedCall, Server, running, wait_until

from fullconv import Answer, AsyncClient, Client, ImageError, RequestError, ScoringError, Security, UnavailableError
from fullconv.encode import options_message
from fullconv.remote.connection import error_of
from fullconv.remote.retries import STATUS_LOST, Retries

MODELS = ROOT / "models"
PAGE = MODELS / "digits" / "page.png"
FAILING = "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:1: "
"""The beginning of gRPC's message for a server to which no connection can be made."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


def same(one: Answer, other: Answer) -> None:
    """Check that two answers are equal except for their times."""
    assert one.header == other.header
    assert one.plan == other.plan
    assert one.top == other.top
    np.testing.assert_array_equal(one.average, other.average)
    np.testing.assert_array_equal(one.grid, other.grid)
    documents = [answer.document() for answer in (one, other)]
    for document in documents:
        del document["timing_ms"]
    assert documents[0] == documents[1]


@pytest.mark.parametrize(
    ("options", "expected_message"),
    [
        ({"stride": 0}, "stride: expected 1 to"),
        ({"flip": "yes"}, "flip: expected True or False, got 'yes'"),
        ({"grid": 3}, "grid: expected True or False or float32 or float16 or top or argmax, got 3"),
        ({"mode": ["dense"]}, "mode: expected auto or dense or shared or crops or exact, got"),
        ({"scales": 0}, "scales: expected pixels of the shorter side"),
        ({"classes": None}, "classes: expected labels or indices, got None"),
        ({"classes": [b"3"]}, "classes: expected labels or indices, got b'3'"),
        ({"top": 0}, "top: expected 1 to"),
        ({"grid_top": -1}, "grid_top: expected 1 to"),
        ({"stride": "8"}, "stride: expected 1 to 4294967295, got '8'"),
        ({"stride": True}, "stride: expected 1 to 4294967295, got True"),
        ({"priority": 3}, "priority: expected low or normal or high, got 3"),
        ({"version": 1}, "version: expected text, got 1"),
        ({"version": "\udc80"}, "version: expected text, got"),
        ({"classes": ["\udc80"]}, "classes: expected labels or indices, got"),
        ({"roi": (0, 0, 1 << 32, 1)}, "roi: expected 0 to"),
        ({"roi": (1, 2)}, "roi: expected x, y, width, height; got"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(server: Server, options: Any, expected_message: str) -> None:  # noqa: ANN401
    """An invalid option is a RequestError that names it, before anything is sent."""
    with Client(server.address) as client, pytest.raises(RequestError, match=expected_message):
        client.score(noise(80, 80, 1), **{"model": "digits", **options})


@pytest.mark.parametrize(
    ("image", "expected_message"),
    [
        (None, "got NoneType"),
        ("a\0b", "cannot be read: embedded null byte"),
        (np.broadcast_to(np.uint8(0), (60_000, 60_000, 3)), "got 10800000000; use score_large"),
    ],
    ids=["none", "null", "huge"],
)
def test_invalid_images_are_refused(server: Server, image: Any, expected_message: str) -> None:  # noqa: ANN401
    """An invalid image is an ImageError before anything is sent."""
    with Client(server.address) as client, pytest.raises(ImageError, match=expected_message):
        client.score(image, model="digits")


def test_arrays_and_masks_by_path_and_by_value(server: Server, tmp_path: Path) -> None:
    """A .npy file stands for its array, as an image and as a mask; a boolean mask equals a mask of numbers."""
    image, mask = noise(90, 100, 1), np.zeros((90, 100), np.bool_)
    mask[:80] = True
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "mask.npy", mask.astype(np.uint8))
    np.save(tmp_path / "truth.npy", mask)
    with Client(server.address) as client:
        answers = [
            client.score(one, model="digits", mask=other, grid=True)
            for one in (image, tmp_path / "image.npy")
            for other in (mask, mask.astype(np.uint8) * 255, tmp_path / "mask.npy", tmp_path / "truth.npy")
        ]
        for answer in answers:
            assert answer.scored == 2 * 4
            np.testing.assert_array_equal(answer.grid, answers[0].grid)
        with pytest.raises(ImageError, match=r"mask: expected .height, width"):
            client.score(image, model="digits", mask=mask.astype(float))


def test_asyncio_gives_the_same_answers(server: Server) -> None:
    """The asyncio client gives the same answers as the other client, also for concurrent calls."""
    images = [noise(90 + side, 100, 1) for side in range(20)]

    async def main() -> tuple[list[Answer], dict[str, Answer | ScoringError], list[tuple[str, str]]]:
        async with AsyncClient(server.address, timeout=60) as client:
            answers = await asyncio.gather(*(client.score(image, model="digits", grid=True) for image in images))
            items = ((str(number), image) for number, image in enumerate(images))
            many = {name: answer async for name, answer in client.score_many(items, model="digits", grid=True)}
            assert (await client.model("digits")).name == "digits"
            return answers, many, await client.models()

    answers, many, models = asyncio.run(main())
    with Client(server.address) as client:
        for number, image in enumerate(images):
            expected = client.score(image, model="digits", grid=True)
            same(expected, answers[number])
            one_of_many = many[str(number)]
            assert isinstance(one_of_many, Answer)
            same(expected, one_of_many)
        assert models == client.models()


def test_the_client_loads_no_runtime() -> None:
    """Creating a client imports neither ONNX Runtime, libvips and matplotlib nor the service and the converter."""
    script = (
        "import sys, fullconv; fullconv.Client('127.0.0.1:1', retries=0); "
        "heavy = {'converter', 'matplotlib', 'onnx', 'onnxruntime', 'pyvips', 'service'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["x", "a:1,b", "127.0.0.1:99999", "", "a:1,,b:2", None])
def test_invalid_addresses_are_refused(name: Any) -> None:  # noqa: ANN401
    """An invalid address is a RequestError when the client is made."""
    with pytest.raises(RequestError, match="server: expected HOST:PORT"):
        Client(name)


@pytest.mark.parametrize(
    ("wrong", "expected_message"),
    [
        ({"retries": -1}, "retries: expected 0 or more, got -1"),
        ({"retries": "2"}, "retries: expected 0 or more, got '2'"),
        ({"timeout": "1"}, "timeout: expected seconds, above 0 and at most 1e+09; got '1'"),
        ({"timeout": True}, "timeout: expected seconds, above 0 and at most 1e+09; got True"),
        ({"security": "tls"}, "security: expected Security(...), got 'tls'"),
        ({"timeout": 0}, "timeout: expected seconds, above 0 and at most 1e+09; got 0"),
        ({"timeout": float("inf")}, "timeout: expected seconds, above 0 and at most 1e+09; got inf"),
        ({"timeout": float("nan")}, "timeout: expected seconds, above 0 and at most 1e+09; got nan"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_invalid_settings_are_refused(kind: Any, wrong: dict[str, Any], expected_message: str) -> None:  # noqa: ANN401
    """An invalid timeout, number of retries or security is a RequestError when a client is made."""
    with pytest.raises(RequestError, match=re.escape(expected_message)):
        kind("127.0.0.1:1", **wrong)


def test_priorities_are_sent() -> None:
    """The names of priorities become the numbers that the server reads."""
    names: tuple[Literal["low", "normal", "high"], ...] = ("low", "normal", "high")
    assert [options_message({"priority": name}).priority for name in names] == [1, 2, 3]
    assert not options_message({}).priority


def test_closed_clients_raise_errors(server: Server) -> None:
    """Every call of a closed client is a RequestError, for both clients."""
    client = Client(server.address)
    client.close()
    for call in (
        lambda: client.score(noise(80, 80, 1), model="digits"),
        lambda: list(client.score_many([("a", noise(80, 80, 1))], model="digits")),
        lambda: client.score_large(noise(80, 80, 1), model="digits"),
        client.models,
    ):
        with pytest.raises(RequestError, match="client: expected an open client"):
            call()

    async def ask_asynchronously() -> None:
        twin = AsyncClient(server.address)
        await twin.close()
        await twin.models()

    with pytest.raises(RequestError, match="client: expected an open client"):
        asyncio.run(ask_asynchronously())


def test_invalid_timeouts_of_calls_are_refused() -> None:
    """An invalid timeout of a call is a RequestError."""
    with Client("127.0.0.1:1") as client, pytest.raises(RequestError, match="timeout: expected seconds, above 0"):
        client.score(noise(80, 80, 1), model="digits", timeout=-1)


def test_retries_are_bounded_and_grow() -> None:
    """Waits begin with the delay that a busy server states, double each time, and end with the tries or the time."""
    error = busy(seconds=0.2)
    retries, waits = Retries(4, None), []
    waits += [retries.after(error) for _ in range(4)]
    with pytest.raises(grpc.RpcError):
        retries.after(error)
    assert all(0.2 * 2**place <= wait <= 0.26 * 2**place for place, wait in enumerate(waits))
    hasty = Retries(4, 0.1)
    with pytest.raises(grpc.RpcError):
        hasty.after(error)
    for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL):
        with pytest.raises(grpc.RpcError):
            Retries(4, None).after(FailedCall(code))
    assert Retries(4, None).after(FailedCall(grpc.StatusCode.INTERNAL, STATUS_LOST)) < 1


def busy(seconds: float) -> FailedCall:
    """Return the error of a busy server."""
    from service.errors import BusyError  # noqa: PLC0415 (the client does without)
    from service.rpc.status import status_of  # noqa: PLC0415

    return FailedCall(*status_of(BusyError("m", seconds)))


def test_servers_are_called_in_turn() -> None:
    """Two servers get half of the requests each."""
    with running(MODELS) as one, running(MODELS) as other:
        with Client(f"{one.address},{other.address}") as client:
            for _ in range(10):
                client.score(noise(80, 80, 1), model="digits")
        wait_until(lambda: len(one.events("request")) + len(other.events("request")) >= 10)
        assert len(one.events("request")) == 5


@pytest.mark.slow
def test_killed_servers_lose_no_request() -> None:
    """If one of three servers is killed under load, every call of a client still gets the right answer."""
    image, count = noise(300, 300, 1), 400
    with ExitStack() as stack:
        servers = [stack.enter_context(running(MODELS)) for _ in range(2)]
        doomed = stack.enter_context(running(MODELS, status=-signal.SIGKILL))
        addresses = ",".join(server.address for server in (*servers, doomed))
        with Client(addresses, timeout=60) as client, ThreadPoolExecutor(16) as pool:
            expected = client.score(image, model="digits").average
            pending = [pool.submit(client.score, image, model="digits") for _ in range(count)]
            wait_until(lambda: sum(future.done() for future in pending) >= count // 4)
            os.kill(doomed.process.pid, signal.SIGKILL)
            for future in pending:
                np.testing.assert_array_equal(expected, future.result().average)


def test_deadlines_end_retries() -> None:
    """If no server answers, a call ends with its deadline, with the last status in the message."""
    with Client("127.0.0.1:1", timeout=1.0, retries=100) as client:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"server 127\.0\.0\.1:1 does not answer \(connection refused\)"):
            client.models()
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (f"{FAILING}Failed to connect to remote host: Connection refused", "(connection refused); start"),
        (f"{FAILING}connection attempt timed out before receiving SETTINGS frame", "(timed out); check the address"),
        (f"{FAILING}Failed to connect to remote host: No route to host", "(no route to the host); check the address"),
        (f"{FAILING}Failed to connect to remote host: Network is unreachable", "(network unreachable); check"),
        ("failed to connect to all addresses; last error: UNKNOWN: Connection refused", "(connection refused); start"),
        ("errors resolving a:1: [field:hostname lookup error:Domain name not found]", "(name unknown); check"),
        ("DNS resolution failed for a:1: C-ares status: connection refused", "(name unknown); check"),
        ("Stream removed (Deadline Exceeded)", "(timed out); allow more time with timeout, or check the address"),
        ("Deadline Exceeded", "(timed out); allow more time with timeout, or check the address"),
    ],
)
def test_servers_that_do_not_answer(details: str, expected: str) -> None:
    """The message for a server without a connection names it, the cause and the way out, not gRPC's words."""
    one = str(error_of("a:1", grpc.StatusCode.UNAVAILABLE, details))
    two = str(error_of("a:1,b:2", grpc.StatusCode.UNAVAILABLE, details))
    assert one.startswith(f"server a:1 does not answer {expected}")
    assert two.startswith(f"servers a:1, b:2 do not answer {expected}")


@pytest.mark.parametrize(
    "details",
    ["Socket closed", "upstream connect error: Connection refused", f"{FAILING}Ssl handshake failed"],
)
def test_other_failures_keep_their_words(details: str) -> None:
    """A failure of another kind, as of a proxy that answers, has the status and the words of gRPC."""
    error = error_of("a:1", grpc.StatusCode.UNAVAILABLE, details)
    assert (type(error), str(error)) == (UnavailableError, f"a:1: UNAVAILABLE: {details}")


def test_a_silent_server_is_named() -> None:
    """A program that accepts a connection and says nothing is a server that does not answer, for both clients."""

    async def asynchronously(address: str) -> None:
        async with AsyncClient(address, timeout=0.5) as client:
            await client.models()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        expected = rf"server {re.escape(address)} does not answer \(timed out\); allow more time"
        with Client(address, timeout=0.5) as client, pytest.raises(UnavailableError, match=expected):
            client.models()
        with pytest.raises(UnavailableError, match=expected):
            asyncio.run(asynchronously(address))


def test_tokens_are_not_sent_unencrypted() -> None:
    """A token is refused for a connection to another machine without TLS."""
    with pytest.raises(RequestError, match="expected TLS"):
        Client("192.0.2.1:8500", security=Security(token="secret"))  # noqa: S106 (a test)
    with pytest.raises(RequestError, match="printable"):
        Security(token="a\nb")  # noqa: S106
    with pytest.raises(RequestError, match="both or neither"):
        Security(cert=Path("x"))


def test_encoded_images_of_every_kind(server: Server, tmp_path: Path) -> None:
    """A path, a string, bytes and an array of one image get the same answer."""
    pixels = noise(90, 100, 1)
    path = tmp_path / "ünï.png"
    path.write_bytes(png(pixels))
    with Client(server.address) as client:
        answers = [client.score(image, model="digits") for image in (path, str(path), path.read_bytes(), pixels)]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answers[0].average, answer.average)
