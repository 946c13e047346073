"""A server in a container of 2 GiB while it is attacked in every way that benchmarks/siege.py knows."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from socket import socket
from typing import Any

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.compose

FILES = ["docker-compose.yml", "tests/deployment/two_gib.yml"]
COMPOSE = ["docker", "compose", "--project-name", "fullconv-siege", *(part for file in FILES for part in ("-f", file))]
MINUTES = 2


def output_of(*command: str, addresses: tuple[str, str]) -> str:
    """Run a command that knows the addresses of the server and of its metrics; returns its output."""
    environment = os.environ | dict(zip(("FULLCONV_PORT", "FULLCONV_METRICS_PORT"), addresses, strict=True))
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def addresses() -> Iterator[tuple[str, str]]:
    """Run a server in a container of 2 GiB; yields its address and that of its metrics."""
    with ExitStack() as free:
        ports = [free.enter_context(socket()) for _ in range(2)]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        server, metrics = (f"127.0.0.1:{port.getsockname()[1]}" for port in ports)
    try:
        output_of(*COMPOSE, "up", "--build", "--wait", "--detach", addresses=(server, metrics))
        yield server, metrics
    finally:
        output_of(*COMPOSE, "down", "--volumes", addresses=(server, metrics))


def test_a_small_container_survives_every_attack(addresses: tuple[str, str]) -> None:
    """No ordinary request fails during two minutes of attacks, and the container is never out of memory."""
    server, metrics = addresses
    program = [sys.executable, "benchmarks/siege.py", "--server", server, "--metrics", metrics, "--untimed"]
    output_of(*program, "--minutes", str(MINUTES), addresses=addresses)
    container = output_of(*COMPOSE, "ps", "--quiet", "server", addresses=addresses).strip()
    details: dict[str, Any] = json.loads(output_of("docker", "inspect", container, addresses=addresses))[0]
    assert details["HostConfig"]["Memory"] == 2 << 30
    assert details["State"]["Running"]
    assert not details["State"]["OOMKilled"]
    assert details["RestartCount"] == 0
