"""Servers for the tests, each in a process of its own, and calls to them without the client library."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import grpc

from fullconv import Answer, Client
from fullconv.protos import open_inference_pb2 as oip

SCORE = "/fullconv.v1.Scoring/Score"
COMMAND = [sys.executable, "-c", "from service.cli import main; main()"]


@dataclass
class Server:
    """A running `fullconv-serve`. `log` grows with every line that the server logs."""

    process: subprocess.Popen[str]
    address: str
    log: list[dict[str, Any]] = field(default_factory=list)

    def follow(self) -> None:
        """Append to the log until the process ends."""
        for line in self.process.stderr or ():
            self.log.append(json.loads(line) if line.startswith("{") else {"event": "stray", "text": line})

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the log with one event name."""
        return [line for line in self.log if line["event"] == name]


class FailedCall(grpc.RpcError, grpc.Call):
    """A fake gRPC call that has ended with an error status."""

    def __init__(self, code: grpc.StatusCode, message: str = "m", trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._code, self._message, self._trailers = code, message, trailers

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return self._code

    def details(self) -> str:
        """Return the message of the status."""
        return self._message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Return the metadata that came with the status."""
        return self._trailers

    def initial_metadata(self) -> tuple[()]:
        """Return no metadata."""
        return ()

    cancel = is_active = time_remaining = add_callback = lambda *_: None


@contextmanager
def running(models: Path, *options: str, status: int = 0) -> Iterator[Server]:
    """Start a server on a free port; afterwards stop it, and assert its exit status and a log without errors."""
    command = [*COMMAND, "--models", str(models), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        server = Server(process, first["address"], [first])
        reader = Thread(target=server.follow)
        reader.start()
        try:
            yield server
            if process.poll() is None and not server.events("draining"):
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == status, server.events("stray")
        finally:
            process.kill()
            reader.join()
    strays = server.events("bug") + server.events("stray") + [line for line in server.log if "logger" in line]
    assert not strays, strays


def call(address: str, method: str, data: bytes) -> grpc.RpcError:
    """Send bytes that a method must refuse; returns the error."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(data, timeout=30)
        except grpc.RpcError as error:
            return error
    raise AssertionError(f"expected {method} to fail")


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds; fails after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "expected the condition to hold in time"
        time.sleep(0.02)


@contextmanager
def occupied(address: str, image: bytes) -> Iterator[tuple[Future[Answer], grpc.RpcError]]:
    """Keep a server that admits one request busy; yields its future answer, and the error that a second call gets."""
    with Client(address) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.score, image, model="digits")
        while not answer.done():
            error = call(address, SCORE, b"")
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                yield answer, error
                return
            time.sleep(0.05)  # this call uses the only place too, and the client retries only a few times
        raise AssertionError(f"expected a busy server, got {answer.result()}")


def infer(server: Server, message: oip.ModelInferRequest) -> oip.ModelInferResponse:
    """Send one request over a new connection."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            oip.ModelInferRequest.SerializeToString,
            oip.ModelInferResponse.FromString,
        )
        answer: oip.ModelInferResponse = call(message, timeout=60)
        return answer
