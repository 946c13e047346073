"""The container image, started with the shipped compose file by the `docker compose` on the PATH."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.paths import ROOT

from fullconv import Client, Scorer

pytestmark = pytest.mark.compose

PAGE = ROOT / "models" / "digits" / "page.png"
PROJECT = "fullconv-test"
MOST_BYTES = 350_000_000
"""Largest size of the server's image, uncompressed."""


def compose(*arguments: str, address: str = "127.0.0.1:0") -> str:
    """Run docker compose on the shipped file; returns its output."""
    command = ["docker", "compose", "--project-name", PROJECT, *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"FULLCONV_PORT": address}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def free_ports(count: int) -> int:
    """Return the first of free ports in a row, below those that systems give to connections."""
    for first in range(20_000, 32_000, count):
        with ExitStack() as held, suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("all ports are in use")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Run a server in a container; yields the address of its published port."""
    address = f"127.0.0.1:{free_ports(1)}"
    try:
        compose("up", "--build", "--wait", "--detach", address=address)
        yield address
    finally:
        compose("down", "--volumes", address=address)


def inspect() -> dict[str, Any]:
    """Return the container engine's description of the container."""
    container = compose("ps", "--quiet", "server").strip()
    output = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    container_state: dict[str, Any] = json.loads(output)[0]
    return container_state


def test_the_page_is_scored(address: str) -> None:
    """A server at the published port gives the page the same answer as this process."""
    expected = Scorer(ROOT / "models").score(PAGE, model="digits").document()
    command = [sys.executable, "-m", "fullconv", str(PAGE), "--model", "digits", "--server", address, "--json"]
    got = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)
    for document in (expected, got):
        document.pop("timing_ms")
    assert expected == got


def test_large_images_are_spooled(address: str) -> None:
    """A file in parts is spooled to the volume, which the server can write, and is scored."""
    with Client(address) as client, client.score_large(PAGE, model="digits", grid=True) as run:
        assert sum(len(rows) for _, rows in run.bands()) == 88


def test_health_and_models(address: str) -> None:
    """The container is healthy, and serves the mounted repository."""
    with grpc.insecure_channel(address) as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
    with Client(address) as client:
        assert ("digits", "1") in client.models()
    assert inspect()["State"]["Health"]["Status"] == "healthy"


@pytest.mark.clients
def test_triton_clients_are_answered(address: str) -> None:
    """Triton's unchanged stock client gets the same scores from the container as from this process."""
    script = ROOT / "tests" / "deployment" / "triton_client.py"
    command: list[str | Path] = [ROOT / "build" / "clients" / "bin" / "python", script, address, "digits", PAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    got = json.loads(result.stdout.splitlines()[-1])["sync"]["encoded"]
    answer = Scorer(ROOT / "models").score(PAGE, model="digits")
    assert got["average"][0] == pytest.approx(list(answer.average), abs=1e-5)


def test_metrics_are_exported_inside(address: str) -> None:  # noqa: ARG001 (the server must be up)
    """Prometheus in the same network can read the metrics; clients outside of the network cannot."""
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8501/metrics').read().decode())"
    assert "fullconv_requests_total" in compose("exec", "--no-TTY", "server", "python", "-c", script)
    assert "8501/tcp" not in [name for name, ports in inspect()["NetworkSettings"]["Ports"].items() if ports]


def test_the_monitoring_profile_is_whole(address: str) -> None:
    """Compose accepts the profile with Prometheus and Grafana, and every file that it mounts exists."""
    config = json.loads(compose("--profile", "monitoring", "config", "--format", "json", address=address))
    assert set(config["services"]) == {"server", "prometheus", "grafana"}
    for service in config["services"].values():
        for volume in service["volumes"]:
            assert volume["type"] == "volume" or Path(volume["source"]).exists()


def test_the_container_is_locked_down(address: str) -> None:  # noqa: ARG001 (the server must be up)
    """The container has no root user, a read-only root and models, no capabilities, and only the packages it needs."""
    details = inspect()
    assert details["Config"]["User"] == "10001"
    assert details["HostConfig"]["ReadonlyRootfs"]
    assert details["HostConfig"]["CapDrop"] == ["ALL"]
    (models,) = (mount for mount in details["Mounts"] if mount["Destination"] == "/models")
    assert not models["RW"]
    absent = "('torch', 'matplotlib', 'converter', 'pyarrow', 's3fs', 'onnx', 'scipy', 'sympy', 'rich')"
    script = f"import importlib.util as u, shutil; print([n for n in {absent} if u.find_spec(n)], shutil.which('gcc'))"
    output = compose("exec", "--no-TTY", "server", "python", "-c", script)
    assert output.strip() == "[] None"


def test_the_image_is_small(address: str) -> None:  # noqa: ARG001 (the image must be built)
    """The image of the server has less than 350 MB with the system and Python."""
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", "fullconv"]
    assert int(subprocess.run(command, capture_output=True, check=True).stdout) < MOST_BYTES


def test_the_image_with_openvino_has_it(address: str) -> None:  # noqa: ARG001 (the image of the server must be built)
    """The further image of the server finds OpenVINO, and may write the directory of its measurements."""
    build = ["docker", "build", "--quiet", "--target", "openvino", "--tag", "fullconv-openvino", "."]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    script = (
        "from pathlib import Path; from service.engine.requested_backend import RequestedBackend; "
        "print(sorted({each.provider for each in RequestedBackend().backends()}), Path('/cache/new').write_text('it'))"
    )
    command = ["docker", "run", "--rm", "--entrypoint", "python", "fullconv-openvino", "-c", script]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert output.strip() == "['cpu', 'openvino'] 2"


def test_three_servers_share_the_work(address: str) -> None:
    """With --scale server=3 a client calls three servers in turn; when one of them is killed, no request fails."""
    first = free_ports(3)
    wanted = f"127.0.0.1:{first}-{first + 2}"
    compose("up", "--wait", "--detach", "--scale", "server=3", address=wanted)
    containers = compose("ps", "--quiet", "server", address=wanted).split()
    assert len(containers) == 3
    servers = ",".join(f"127.0.0.1:{first + number}" for number in range(3))
    with Client(servers, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        expected = client.score(PAGE, model="digits").average
        pending = [pool.submit(client.score, PAGE, model="digits") for _ in range(60)]
        subprocess.run(["docker", "kill", containers[0]], check=True, capture_output=True)
        for future in pending:
            assert (future.result().average == expected).all()
    compose("up", "--wait", "--detach", "--scale", "server=1", address=address)


def test_stopping_is_clean(address: str) -> None:
    """Docker compose stop ends the server with status 0 within its grace period."""
    compose("stop", address=address)
    container = compose("ps", "--all", "--quiet", "server").strip()
    output = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    assert json.loads(output)[0]["State"]["ExitCode"] == 0
