"""Clients that take their answers slowly or not at all: how long they stall, and what they delay at the shutdown."""

import json
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import trustme
from support.http2 import INITIAL_WINDOW, Connection, message_header
from support.paths import ROOT
from support.pictures import noise, png
from support.rest import HEADER_LENGTH, INFER, binary_request
from support.servers import SCORE, Server, running, wait_until

from fullconv.protos import scoring_pb2
from service.server.untaken import LEAST_BYTES, Stall

MODELS = ROOT / "models"
ANSWER_BYTES = 483 * 483 * 10 * 4
"""Bytes of the scores of an image of 2000 × 2000 pixels with stride 4."""


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([9 * LEAST_BYTES] * 3, [0, 1, 2]),
        ([9 * LEAST_BYTES, 8 * LEAST_BYTES, 7 * LEAST_BYTES], [0, 0, 0]),
        ([9 * LEAST_BYTES, 9 * LEAST_BYTES - 1, 9 * LEAST_BYTES - 2], [0, 1, 2]),
        ([9 * LEAST_BYTES, 9 * LEAST_BYTES - 1, 8 * LEAST_BYTES, 8 * LEAST_BYTES], [0, 1, 0, 1]),
        ([LEAST_BYTES, 9 * LEAST_BYTES, 9 * LEAST_BYTES], [0, 0, 1]),
        ([10, 0, 10, 10], [0, 0, 0, 1]),
    ],
    ids=["nothing", "stalled", "taking", "a byte at a time", "slowly", "more is written", "again"],
)
def test_stalls(waiting: list[int], expected: list[float]) -> None:
    """A client stalls while it takes less than 32 KiB of what waits for it, counted in seconds since it last did."""
    stall = Stall()
    assert [stall.seconds(100.0 + second, untaken) for second, untaken in enumerate(waiting)] == expected


def test_answers_wait_until_they_are_taken() -> None:
    """An answer waits from its first byte to its last, also while the client takes it."""
    stall = Stall()
    waited = list[float]()
    for second, untaken in enumerate([0, 9 * LEAST_BYTES, 5 * LEAST_BYTES, LEAST_BYTES, 0, LEAST_BYTES]):
        stall.seconds(second, untaken)
        waited.append(stall.waiting_seconds(second))
    assert waited == [0, 0, 1, 2, 0, 0]


@contextmanager
def asking(server: Server, tls: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    """Request an answer of ANSWER_BYTES bytes, and wait until it is ready; yields the connection."""
    large = noise(2000, 2000, 1)
    fields = {"parameters": {"binary_data_output": True, "stride": 4}}
    body, headers = binary_request("UINT8", large.shape, large.tobytes(), **fields)
    lines = [f"{name}: {value}\r\n" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
    host, _, port = server.log[0]["viewer"].rpartition(":")
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect((host, int(port)))
        connection = plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost")
        with connection:
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n{''.join(lines)}\r\n"
            connection.sendall(head.encode() + body)
            assert connection.recv(12) == b"HTTP/1.1 200"
            yield connection


def encryption(folder: Path) -> tuple[list[str], ssl.SSLContext]:
    """Write a certificate; returns the options of a server with it, and the context of a client."""
    authority, context = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(context)
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert")
    return ["--tls-cert", str(folder / "cert"), "--tls-key", str(folder / "key")], context


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_untaken_answers_do_not_delay_the_shutdown(tmp_path: Path, *, encrypted: bool) -> None:
    """After SIGTERM the server ends while a client that may pause for an hour holds its answer untaken."""
    options, tls = encryption(tmp_path) if encrypted else ([], None)
    with running(MODELS, "--viewer", "127.0.0.1:0", "--max-idle", "3600", *options) as server, asking(server, tls):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert [line["event"] for line in server.log][-2:] == ["draining", "stopped"]


def test_untaken_answers_of_grpc_do_not_delay_the_shutdown() -> None:
    """After SIGTERM the server ends while a client of gRPC takes no more than the beginning of its answer."""
    image, options = scoring_pb2.Image(encoded=png(noise(400, 400, 1))), scoring_pb2.ScoreOptions(grid=True, stride=2)
    request = scoring_pb2.ScoreRequest(model="digits", image=image, options=options).SerializeToString()
    with running(MODELS, "--max-idle", "1") as server, Connection(server.address) as connection:
        call = connection.open(SCORE)
        connection.send(call, message_header(len(request)) + request, end=True)
        connection.wait(lambda: len(connection.received[call]) >= INITIAL_WINDOW)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert [line["event"] for line in server.log][-2:] == ["draining", "stopped"]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_taken_answers_are_whole(tmp_path: Path, *, encrypted: bool) -> None:
    """A client that begins to take its answer only after SIGTERM gets the whole answer."""
    options, tls = encryption(tmp_path) if encrypted else ([], None)
    with running(MODELS, "--viewer", "127.0.0.1:0", *options) as server, asking(server, tls) as connection:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.events("draining"))
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        head, _, content = answer.partition(b"\r\n\r\n")
        names = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
        assert len(content) == int(names["content-length"]) > ANSWER_BYTES
        assert np.isfinite(np.frombuffer(content[int(names[HEADER_LENGTH.lower()]) :], "<f4")).all()
        assert json.loads(content[: int(names[HEADER_LENGTH.lower()])])["model_name"] == "digits"
        assert server.process.wait(60) == 0
