"""Real servers, as processes, for the tests."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import grpc

from fullconv import Answer, Client

SCORE = "/fullconv.v1.Scoring/Score"
COMMAND = [sys.executable, "-c", "from service.cli import main; main()"]


@dataclass
class Server:
    """A `fullconv-serve` that listens; `log` fills as it speaks."""

    process: subprocess.Popen[str]
    address: str
    log: list[dict[str, Any]] = field(default_factory=list)

    def follow(self) -> None:
        """Read the log until the process ends."""
        for line in self.process.stderr or ():
            self.log.append(json.loads(line) if line.startswith("{") else {"event": "stray", "text": line})

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of one kind."""
        return [line for line in self.log if line["event"] == name]


class Failed(grpc.RpcError, grpc.Call):
    """A call that has ended with a status."""

    def __init__(self, code: grpc.StatusCode, message: str = "m", trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._code, self._message, self._trailers = code, message, trailers

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._code

    def details(self) -> str:
        """The message."""
        return self._message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """What came with it."""
        return self._trailers

    def initial_metadata(self) -> tuple[()]:
        """Nothing."""
        return ()

    cancel = is_active = time_remaining = add_callback = lambda *_: None


@contextmanager
def running(models: Path, *options: str, status: int = 0) -> Iterator[Server]:
    """Start a server on a free port; stop it at the end, and see that it ended with a status."""
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
    """Send raw bytes to a method that cannot answer them; returns the error."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(data, timeout=30)
        except grpc.RpcError as error:
            return error
    raise AssertionError(f"expected {method} to fail")


@contextmanager
def occupied(address: str, image: bytes) -> Iterator[tuple[Future[Answer], grpc.RpcError]]:
    """Keep a server that admits one request busy with a large image: its answer, and what another one is told."""
    with Client(address) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.score, image, model="digits")
        while not answer.done():
            error = call(address, SCORE, b"")
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                yield answer, error
                return
            time.sleep(0.05)  # this call takes the one place too, and the client tries a few times only
        raise AssertionError(f"expected a busy server, got {answer.result()}")
