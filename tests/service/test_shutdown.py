"""How a server ends: by a signal, by another, and what its health says meanwhile."""

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import pyvips
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.paths import ROOT
from support.pictures import noise
from support.servers import occupied, running

from fullconv import Client, UnavailableError
from service.engine.registry import Registry
from service.server import health as health_module
from service.server.health import Health
from service.server.probe import is_serving
from service.server.shutdown import GRACE_SECONDS


def test_termination_answers_what_was_admitted(models: Path) -> None:
    """SIGTERM in the middle of 32 clients' requests: each is answered or refused with UNAVAILABLE; exit 0."""
    image = noise(300, 300, 1)
    refused: list[str] = []
    answered: list[np.ndarray] = []
    with running(models) as server:
        with Client(server.address) as client:
            expected = client.score(image, model="digits").average

        def work(_: int) -> None:
            with Client(server.address, retries=0) as client:
                while True:
                    try:
                        answered.append(client.score(image, model="digits").average)
                    except UnavailableError as error:
                        refused.append(str(error))
                        return

        with ThreadPoolExecutor(32) as pool:
            done = pool.map(work, range(32))
            while len(answered) < 100:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            list(done)
        assert server.process.wait(30) == 0
    assert len(refused) == 32
    assert not [message for message in refused if "UNAVAILABLE" not in message]
    assert len(answered) >= 100
    for average in answered:
        np.testing.assert_array_equal(expected, average)
    codes = [line["code"] for line in server.events("request")]
    assert set(codes) <= {"OK", "UNAVAILABLE"}
    assert codes.count("OK") == len(answered) + 1
    assert [e["event"] for e in server.log if e["event"] != "request"] == ["listening", "loaded", "draining", "stopped"]


@pytest.mark.slow
def test_clients_that_go_on_asking_do_not_hold_up_the_end(models: Path) -> None:
    """After SIGTERM clients that never stop are refused until there is no server any more, which ends with status 0."""
    gone = {"refused": 0, "answered": 0}
    with running(models) as server:

        def work(_: int) -> None:
            with Client(server.address, retries=0) as client:
                while server.process.poll() is None:
                    try:
                        client.score(noise(80, 80, 1), model="digits")
                        gone["answered"] += 1
                    except UnavailableError:
                        gone["refused"] += 1

        with ThreadPoolExecutor(8) as pool:
            done = pool.map(work, range(8))
            while not gone["answered"]:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            list(done)
        assert server.process.wait(30) == 0
    assert gone["refused"] > 8
    assert {"OK", "UNAVAILABLE"} == {line["code"] for line in server.events("request")}


@pytest.mark.slow
def test_health_says_not_serving_while_draining(models: Path) -> None:
    """After SIGTERM, with a request still running, health is NOT_SERVING and new requests are UNAVAILABLE.

    So say the service, over gRPC, and the probe, over HTTP.
    """
    large = pyvips.Image.gaussnoise(6000, 6000).cast("uchar").write_to_buffer(".png", compression=0)
    with running(models, "--max-waiting", "1") as server, grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "fullconv.v1.Scoring"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
        assert is_serving(server.log[0]["metrics"])
        with occupied(server.address, large) as (answer, _):
            server.process.send_signal(signal.SIGTERM)
            while not server.events("draining"):
                time.sleep(0.01)
            assert stub.Check(health_pb2.HealthCheckRequest(service="")).status == 2
            assert not is_serving(server.log[0]["metrics"])
            with Client(server.address, retries=0) as other, pytest.raises(UnavailableError, match="shutting down"):
                other.models()
            assert len(answer.result().y) == 742


def test_a_server_whose_loop_hangs_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a probe is told comes from the loop that answers calls."""

    async def hang() -> tuple[bool, bool]:
        asks = Health(Registry(ROOT / "models")).is_serving
        with ThreadPoolExecutor(1) as pool, monkeypatch.context() as hurried:
            hurried.setattr(health_module, "LOOP_SECONDS", 0.05)
            asked = pool.submit(asks).result(10)  # and not the loop, meanwhile
        return asked, await asyncio.to_thread(asks)

    assert asyncio.run(hang()) == (False, True)


def test_a_second_signal_ends_the_server_at_once(models: Path) -> None:
    """The first signal waits for the request that runs; the second does not: status 1."""
    large = pyvips.Image.black(12000, 12000).write_to_buffer(".png")
    options = ["--tile-mib", "64", "--max-waiting", "1"]
    with running(models, *options, status=1) as server, occupied(server.address, large) as (answer, _):
        server.process.send_signal(signal.SIGTERM)
        while not server.events("draining"):
            time.sleep(0.01)
        time.sleep(1.5 * GRACE_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 1
        with pytest.raises(UnavailableError):
            answer.result()


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGINT)], ids=str
)
def test_signals_at_once_are_one(models: Path, first: signal.Signals, second: signal.Signals) -> None:
    """Who sends a signal to the process and to its group, or closes its terminal, takes no answer away."""
    large = pyvips.Image.gaussnoise(5000, 5000).cast("uchar").write_to_buffer(".png", compression=0)
    with running(models, "--max-waiting", "1") as server, occupied(server.address, large) as (answer, _):
        server.process.send_signal(first)
        server.process.send_signal(second)
        assert len(answer.result().y) == 617
        assert server.process.wait(20) == 0
