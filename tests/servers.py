"""Real servers, as processes, for the tests."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import grpc

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


@contextmanager
def running(models: Path, *options: str) -> Iterator[Server]:
    """Start a server on a free port; stop it at the end, and see that it ended well."""
    command = [*COMMAND, "--models", str(models), "--listen", "127.0.0.1:0", *options]
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
            assert process.wait(60) == 0, server.events("stray")
        finally:
            process.kill()
            reader.join()
    assert not server.events("bug") + server.events("stray")


def call(address: str, method: str, data: bytes) -> grpc.RpcError:
    """Send raw bytes to a method that cannot answer them; returns the error."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(data, timeout=30)
        except grpc.RpcError as error:
            return error
    raise AssertionError(f"expected {method} to fail")


def until_busy(address: str) -> grpc.RpcError:
    """Ask a server that admits one request until it is busy with another one; returns what it said then."""
    while True:
        error = call(address, SCORE, b"")
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error
