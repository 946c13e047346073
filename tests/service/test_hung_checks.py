"""A server with versions whose check does not end: everything else goes on."""

import os
import signal
import urllib.request
from pathlib import Path
from select import select

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.hostile_models import copy_version, read_forever, run_forever
from support.pictures import noise
from support.servers import Server, running, wait_until

from fullconv import Client
from fullconv.protos import scoring_pb2, scoring_pb2_grpc

IMAGE = noise(80, 80, 1)


def errors(server: Server) -> dict[tuple[str, str], str]:
    """Return the versions that ListModels lists, with their errors."""
    with grpc.insecure_channel(server.address) as channel:
        listed = scoring_pb2_grpc.ScoringStub(channel).ListModels(scoring_pb2.ListModelsRequest(), timeout=30)
    return {(entry.name, entry.version): entry.error for entry in listed.models}


def failing(server: Server) -> float:
    """Return the metric of the versions that fail."""
    with urllib.request.urlopen(f"http://{server.log[0]['metrics']}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("fullconv_failing_versions ")).split()[1])


def children(server: Server) -> list[int]:
    """Return the processes that check versions for a server."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended
            continue
        if int(parent) == server.process.pid:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_models_serve_while_checks_hang(tmp_path: Path) -> None:
    """While three checks hang, models found with them and later serve; SIGTERM ends the server and the checks."""
    for version in range(1, 4):
        copy_version(tmp_path / "endless" / str(version), run_forever)
    copy_version(tmp_path / "sound" / "1")
    with running(tmp_path, "--poll", "0.2", "--check-seconds", "3600") as server, Client(server.address) as client:
        wait_until(lambda: len(children(server)) == 3)
        assert client.score(IMAGE, model="sound").version == "1"
        copy_version(tmp_path / "later" / "1")
        wait_until(lambda: ("later", "1") in client.models())
        assert client.score(IMAGE, model="later").version == "1"
        wait_until(lambda: len(children(server)) == 3)
        checking = [os.pidfd_open(child) for child in children(server)]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    for process in checking:
        assert select([process], [], [], 60)[0]
        os.close(process)


@pytest.mark.slow
def test_versions_that_hang_are_reported(tmp_path: Path) -> None:
    """List, log, metric and health name the versions whose check hangs, those of a later model too."""
    copy_version(tmp_path / "endless" / "1", run_forever)
    read_forever(copy_version(tmp_path / "endless" / "2"))
    pipe = copy_version(tmp_path / "pipe" / "1") / "model.onnx"
    pipe.unlink()
    os.mkfifo(pipe)
    with running(tmp_path, "--poll", "0.2", "--check-seconds", "10") as server:
        copy_version(tmp_path / "later" / "1", run_forever)
        wait_until(lambda: failing(server) == 4, 120)
        known = errors(server)
        assert {key for key, error in known.items() if error} == {
            ("endless", "1"), ("endless", "2"), ("later", "1"), ("pipe", "1")
        }  # fmt: skip
        for name in ("endless", "later"):
            assert f"{name}/1: expected its networks to load and to score a window within 10 sec" in known[name, "1"]
        assert "endless/2: expected its files to be read within 10 seconds" in known["endless", "2"]
        assert "pipe/1/model.onnx: expected a regular file, got a named pipe" in known["pipe", "1"]
        logged = [((line["model"], line["version"]), line["error"]) for line in server.events("not loaded")]
        assert sorted(logged) == sorted(known.items())
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("endless", "later"):
                state = health.Check(health_pb2.HealthCheckRequest(service=f"models/{name}"), timeout=30).status
                assert state == health_pb2.HealthCheckResponse.NOT_SERVING
