"""The real image, brought up by the real file with whatever `docker compose` is on the PATH."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest
from conftest import ROOT
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import Client
from client.answer import Answer
from client.local import LocalScorer
from protos import scoring_pb2

pytestmark = pytest.mark.compose

PAGE = ROOT / "models" / "digits" / "page.png"
PROJECT = "fullconv-test"


def compose(*arguments: str, address: str = "127.0.0.1:0") -> str:
    """Run docker compose on the shipped file; returns what it printed."""
    command = ["docker", "compose", "--project-name", PROJECT, *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"FULLCONV_PORT": address}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server in a container, by the address of its published port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    try:
        compose("up", "--build", "--wait", "--detach", address=address)
        yield address
    finally:
        compose("down", "--volumes", address=address)


def inspect() -> dict:
    """What the engine says of the container."""
    container = compose("ps", "--quiet", "server").strip()
    output = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    return json.loads(output)[0]


def test_the_page_is_scored(address: str) -> None:
    """Through the published port the page gets the answer of this process."""
    run = LocalScorer(ROOT / "models").start(PAGE, scoring_pb2.ScoreRequest(model="digits"))
    for _ in run.bands():
        pass
    expected = Answer(run.answer()).document()
    command = [sys.executable, "-m", "client", str(PAGE), "--model", "digits", "--server", address, "--json"]
    got = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)
    for document in (expected, got):
        document.pop("timing_ms")
    assert expected == got


def test_large_images_are_spooled(address: str) -> None:
    """A file in parts goes to the volume, which the server can write, and is scored."""
    with Client(address) as client, client.score_large(PAGE, model="digits", grid=True) as run:
        assert sum(len(rows) for _, rows in run.bands()) == 88


def test_health_and_models(address: str) -> None:
    """The container is healthy, and serves the mounted repository."""
    with grpc.insecure_channel(address) as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
    with Client(address) as client:
        assert ("digits", "1") in client.models()
    assert inspect()["State"]["Health"]["Status"] == "healthy"


def test_the_container_is_locked_down(address: str) -> None:  # noqa: ARG001 (the server must be up)
    """Not root, a root that cannot be written, models that cannot either, no capabilities; no compiler, no torch."""
    details = inspect()
    assert details["Config"]["User"] == "fullconv"
    assert details["HostConfig"]["ReadonlyRootfs"]
    assert details["HostConfig"]["CapDrop"] == ["ALL"]
    (models,) = (mount for mount in details["Mounts"] if mount["Destination"] == "/models")
    assert not models["RW"]
    absent = "('torch', 'matplotlib', 'converter')"
    script = f"import importlib.util as u, shutil; print([u.find_spec(n) for n in {absent}], shutil.which('gcc'))"
    output = compose("exec", "--no-TTY", "server", "python", "-c", script)
    assert output.strip() == "[None, None, None] None"


def test_stopping_is_clean(address: str) -> None:
    """Docker compose stop ends the server with status 0 within its grace period."""
    compose("stop", address=address)
    container = compose("ps", "--all", "--quiet", "server").strip()
    output = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    assert json.loads(output)[0]["State"]["ExitCode"] == 0
