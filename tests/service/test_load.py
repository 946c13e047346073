"""Servers under load, and clients that do not wait."""

import asyncio
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.servers import SCORE, Server, running, wait_until

from fullconv import Client
from fullconv.encode import image_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2, scoring_pb2_grpc

MODELS = ROOT / "models"
WINDOW = noise(72, 72, 1)


@pytest.fixture
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


def busy_seconds(server: Server) -> float:
    """Return the CPU time of a server in seconds."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def request(pixels: np.ndarray) -> bytes:
    """Return a request for an image."""
    return scoring_pb2.ScoreRequest(model="digits", image=image_message(source_of(pixels))).SerializeToString()


@pytest.mark.slow
def test_ten_thousand_impatient_requests(server: Server) -> None:
    """A second after 10,000 requests with deadlines of a millisecond the server is idle, and scores correctly."""
    data = request(WINDOW)

    async def storm() -> Counter[str]:
        ended: Counter[str] = Counter()
        async with grpc.aio.insecure_channel(server.address) as channel:
            score = channel.unary_unary(SCORE)

            async def send_request() -> None:
                for _ in range(100):
                    try:
                        await score(data, timeout=0.001)
                        ended["OK"] += 1
                    except grpc.RpcError as error:
                        ended[error.code().name] += 1

            await asyncio.gather(*(send_request() for _ in range(100)))
        return ended

    with Client(server.address) as client:
        expected = client.score(WINDOW, model="digits").average
        ended = asyncio.run(storm())
        assert sum(ended.values()) == 10_000
        assert set(ended) <= {
            "OK",
            "DEADLINE_EXCEEDED",
            "RESOURCE_EXHAUSTED",
            "UNAVAILABLE",  # gRPC itself refuses streams of a connection on which many streams are being cancelled
        }
        time.sleep(1)
        before = busy_seconds(server)
        time.sleep(1)
        assert busy_seconds(server) - before < 0.2
        np.testing.assert_allclose(client.score(WINDOW, model="digits").average, expected, rtol=0, atol=1e-5)


def test_a_client_that_vanishes_leaves_nothing_behind(server: Server) -> None:
    """When a call that needs seconds of compute is cancelled, its tiles are dropped and its claim is released."""
    large = request(noise(4096, 4096, 1))
    with grpc.insecure_channel(server.address) as channel:
        for _ in range(3):
            call = channel.unary_unary(SCORE).future(large, timeout=60)
            before = busy_seconds(server)
            while busy_seconds(server) - before < 0.3:
                assert not call.done(), call.exception()
                time.sleep(0.01)
            call.cancel()
        wait_until(lambda: len(server.events("request")) >= 3)
        before = busy_seconds(server)
        time.sleep(1)
        assert busy_seconds(server) - before < 0.3
    assert {line["code"] for line in server.events("request")} <= {"CANCELLED", "OK"}
    assert "CANCELLED" in {line["code"] for line in server.events("request")}


@pytest.mark.slow
def test_many_clients_of_every_kind(server: Server) -> None:
    """Sixteen concurrent clients, with images of all sizes and all methods, get the same scores as a single client."""
    cases = [
        (noise(side, side + 5, 1), options)
        for side in (70, 90, 300, 900)
        for options in ({}, {"stride": 16}, {"flip": True}, {"mode": "crops", "stride": 40}, {"grid": True})
    ]
    with Client(server.address) as client, ThreadPoolExecutor(16) as pool:

        def score_case(case: tuple[np.ndarray, Any]) -> np.ndarray:
            return np.asarray(client.score(case[0], model="digits", **case[1]).average)

        alone = [score_case(case) for case in cases]
        for expected, got in zip(alone * 8, pool.map(score_case, cases * 8), strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_health_answers_while_large_images_are_scored(server: Server) -> None:
    """Metrics and health are answered while the server computes, and the metrics show its load."""
    with Client(server.address) as client, ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(client.score, noise(3000, 3000, 1), model="digits") for _ in range(2)]
        exported = ""
        while not all(future.done() for future in pending) and "fullconv_queue_requests 2.0" not in exported:
            with urllib.request.urlopen(f"http://{server.log[0]['metrics']}/metrics", timeout=10) as response:
                exported = response.read().decode()
        assert "fullconv_queue_requests 2.0" in exported
        with suppress(Exception):
            [future.result() for future in pending]
        with urllib.request.urlopen(f"http://{server.log[0]['metrics']}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
    assert 'fullconv_requests_total{code="OK",method="Score",model="digits",version="1"} 2.0' in lines
    assert 'fullconv_pixels_total{model="digits",version="1"} 1.8e+07' in lines
    assert "fullconv_queue_requests 0.0" in lines
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{server.log[0]['metrics']}/healthy", timeout=10)
    assert "fullconv_memory_bytes 0.0" in lines


@pytest.mark.slow
def test_idle_clients_do_not_delay_the_shutdown() -> None:
    """A call that sends nothing, and a call that reads no answer, end after --max-idle seconds."""
    left = Event()
    with running(MODELS, "--max-idle", "2") as server, grpc.insecure_channel(server.address) as channel:
        stub = scoring_pb2_grpc.ScoringStub(channel)
        options = scoring_pb2.ScoreOptions(grid=True, stride=2)
        one = scoring_pb2.ScoreRequest(
            model="digits", image=image_message(source_of(noise(400, 400, 1))), options=options
        )

        def nothing() -> Iterator[scoring_pb2.ScoreLargeRequest]:
            left.wait()
            yield from ()

        silent = stub.ScoreLarge(nothing())
        deaf = stub.ScoreMany(scoring_pb2.ScoreManyRequest(id=str(n), request=one) for n in range(2000))
        next(deaf)

        def errors() -> list[str]:
            return sorted(line["error"] for line in server.events("request") if line["code"] == "DEADLINE_EXCEEDED")

        wait_until(lambda: len(errors()) >= 2)
        unsent, untaken = errors()
        assert "to send start within 2 seconds" in unsent
        assert "to take the answer within 2 seconds" in untaken
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        left.set()
        assert silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
