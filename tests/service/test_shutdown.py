"""The shutdown of a server: by one signal, by two signals, and its health during the shutdown."""

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
from support.servers import occupied, running, wait_until

from fullconv import Client, UnavailableError
from service.engine.registry import Registry
from service.server import health as health_module
from service.server.health import Health
from service.server.probe import is_serving
from service.server.shutdown import GRACE_SECONDS


def test_termination_answers_what_was_admitted(models: Path) -> None:
    """After SIGTERM each request of 32 clients is answered or refused with UNAVAILABLE; the exit status is 0."""
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
            wait_until(lambda: len(answered) >= 100)
            server.process.send_signal(signal.SIGTERM)
            list(done)
        assert server.process.wait(30) == 0
    assert len(refused) == 32
    assert not [message for message in refused if "UNAVAILABLE" not in message and "not answer (" not in message]
    assert len(answered) >= 100
    for average in answered:
        np.testing.assert_array_equal(expected, average)
    codes = [line["code"] for line in server.events("request")]
    assert set(codes) <= {"OK", "UNAVAILABLE"}
    assert codes.count("OK") == len(answered) + 1
    ignored = {"request", "runs"}  # `runs` only if no earlier measurement was kept
    events = [line["event"] for line in server.log if line["event"] not in ignored]
    assert events == ["listening", "loaded", "draining", "stopped"]


@pytest.mark.slow
def test_persistent_clients_do_not_delay_the_shutdown(models: Path) -> None:
    """After SIGTERM clients that keep sending requests are refused until the server ends, with status 0."""
    outcomes = {"refused": 0, "answered": 0}
    with running(models) as server:

        def work(_: int) -> None:
            with Client(server.address, retries=0) as client:
                while server.process.poll() is None:
                    try:
                        client.score(noise(80, 80, 1), model="digits")
                        outcomes["answered"] += 1
                    except UnavailableError:
                        outcomes["refused"] += 1

        with ThreadPoolExecutor(8) as pool:
            done = pool.map(work, range(8))
            wait_until(lambda: outcomes["answered"])
            server.process.send_signal(signal.SIGTERM)
            list(done)
        assert server.process.wait(30) == 0
    assert outcomes["refused"] > 8
    assert {"OK", "UNAVAILABLE"} == {line["code"] for line in server.events("request")}


@pytest.mark.slow
def test_health_says_not_serving_while_draining(models: Path) -> None:
    """After SIGTERM, with a request still running, health is NOT_SERVING and new requests are UNAVAILABLE.

    Both the health service, over gRPC, and the probe, over HTTP, report this.
    """
    large = pyvips.Image.gaussnoise(6000, 6000).cast("uchar").write_to_buffer(".png", compression=0)
    with running(models, "--max-waiting", "1") as server, grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "fullconv.v1.Scoring"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
        assert is_serving(server.log[0]["metrics"])
        with occupied(server.address, large) as (answer, _):
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.events("draining"))
            assert stub.Check(health_pb2.HealthCheckRequest(service="")).status == 2
            assert not is_serving(server.log[0]["metrics"])
            with Client(server.address, retries=0) as other, pytest.raises(UnavailableError, match="shutting down"):
                other.models()
            assert len(answer.result().y) == 742


def test_a_server_whose_loop_hangs_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe reports NOT_SERVING while the event loop that answers calls is blocked."""

    async def hang() -> tuple[bool, bool]:
        is_serving_now = Health(Registry(ROOT / "models")).is_serving
        with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
            patch.setattr(health_module, "LOOP_SECONDS", 0.05)
            during_hang = pool.submit(is_serving_now).result(10)  # while the event loop is blocked
        return during_hang, await asyncio.to_thread(is_serving_now)

    assert asyncio.run(hang()) == (False, True)


@pytest.mark.slow
def test_a_second_signal_ends_the_server_at_once(models: Path) -> None:
    """After the first signal the server waits for the running request; a second signal ends it with status 1."""
    large = pyvips.Image.black(12000, 12000).write_to_buffer(".png")
    options = ["--tile-mib", "64", "--max-waiting", "1"]
    with running(models, *options, status=1) as server, occupied(server.address, large) as (answer, _):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.events("draining"))
        time.sleep(1.5 * GRACE_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 1
        with pytest.raises(UnavailableError):
            answer.result()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGINT)], ids=str
)
def test_signals_at_once_are_one(models: Path, first: signal.Signals, second: signal.Signals) -> None:
    """Two signals in quick succession, as to a process and its group, count as one: the request is answered."""
    large = pyvips.Image.gaussnoise(5000, 5000).cast("uchar").write_to_buffer(".png", compression=0)
    with running(models, "--max-waiting", "1") as server, occupied(server.address, large) as (answer, _):
        server.process.send_signal(first)
        server.process.send_signal(second)
        assert len(answer.result().y) == 617
        assert server.process.wait(20) == 0
