"""The HTTP port with clients that are slow, hostile or many: they are ended, and gRPC answers promptly meanwhile."""

import gzip
import json
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path

import pytest
import trustme
from support.paths import ROOT
from support.pictures import noise
from support.rest import INFER, ask, binary_request, grpc_request, request
from support.servers import Server, infer, running, wait_until

from fullconv import Client
from service.server import viewer

MODELS = ROOT / "models"
PIXELS = noise(90, 110, 1)
HEAD = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"
POST = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model with an HTTP port, on which a message may take two seconds to arrive."""
    with running(MODELS, "--viewer", "127.0.0.1:0", "--max-receive", "2", "--max-idle", "2") as server:
        with Client(server.address) as client:
            client.score(PIXELS, model="digits")
        yield server


def connect(server: Server, source: str = "127.0.0.1") -> socket.socket:
    host, _, port = server.log[0]["viewer"].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60, source_address=(source, 0))


def received(connection: socket.socket) -> bytes:
    """Return everything that the server sends until it ends the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 20):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def open_files(server: Server) -> int:
    """Return the number of files and connections that the server has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def peak_mib(server: Server) -> int:
    """Return the largest memory of the server so far, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\r\n\r\n\r\nnonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"Host: example.org\r\n\r\n", 400),
        (HEAD + b"a: " + b"b" * (17 << 10), 400),
        (b"GET /" + b"a" * (17 << 10), 400),
        (HEAD + b"a: b\r\n" * 3000, 400),
        (HEAD + b"no colon\r\n\r\n", 400),
        (HEAD + b"a: \x00\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"BREW /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /v2 HTTP/9.9\r\nHost: localhost\r\n\r\n", 200),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: br\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 421),
    ],
    ids=lambda value: repr(value[:70])[-40:] if isinstance(value, bytes) else str(value),
)
def test_odd_requests(server: Server, head: bytes, status: int) -> None:
    """A request that is odd, too long or not HTTP gets its status, and harms no other request."""
    with connect(server) as connection:
        connection.sendall(head)
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == status
        fields = {"error", "reason"} if status >= 400 else {"name", "version", "extensions"}
        assert set(json.loads(answer.read())) == fields
    assert ask(server, "/v2").status == 200


@pytest.mark.slow
def test_slow_heads_are_ended(server: Server) -> None:
    """A connection without a request, or with one that arrives byte by byte, ends after some seconds."""
    started = time.monotonic()
    with connect(server) as silent, connect(server) as slow:
        slow.settimeout(0.1)
        while time.monotonic() - started < 60:
            try:
                slow.sendall(b"a")
                if not slow.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert viewer.WAIT_SECONDS - 1 < time.monotonic() - started < 50
        assert received(silent) == b""


def test_slow_bodies_are_refused(server: Server) -> None:
    """A body that does not arrive within --max-receive seconds gets 408."""
    with connect(server) as slow:
        slow.sendall(POST + b"Content-Length: 60000\r\n\r\n{")
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "head",
    [
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
    ],
    ids=["chunks", "length"],
)
def test_endless_bodies_are_ended(server: Server, head: bytes) -> None:
    """A body that does not end is refused, and so much of it is received that the client can read the answer."""
    with connect(server) as connection:
        connection.sendall(head)
        assert (viewer.MAX_DISCARDED_BYTES >> 20) <= chunks_taken(connection) < 200


def chunks_taken(connection: socket.socket) -> int:
    """Send chunks of 1 MiB until the server ends the connection, at most 400; returns their number."""
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    for number in range(400):
        try:
            connection.sendall(chunk)
        except ConnectionError:
            return number
    return 400


@pytest.mark.slow
def test_clients_that_take_no_answer_are_ended(server: Server) -> None:
    """A client that stops reading a large answer loses its connection after --max-idle seconds."""
    large = noise(2000, 2000, 1)
    fields = {"parameters": {"binary_data_output": True, "stride": 4}}
    body, headers = binary_request("UINT8", large.shape, large.tobytes(), **fields)
    lines = [f"{name}: {value}\r\n" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
    files = open_files(server)
    with connect(server) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        before = len(server.events("request"))
        stuck.sendall(POST + "".join(lines).encode() + b"\r\n" + body)
        wait_until(lambda: len(server.events("request")) > before)
        assert server.events("request")[-1]["code"] == "OK"
        wait_until(lambda: open_files(server) == files, 30)


def test_answers_that_are_not_taken_count(tmp_path: Path) -> None:
    """While a client leaves a large answer here, its further requests are refused, and those of other clients are not.

    Once its connection has ended, its requests are answered again.
    """
    large = noise(2000, 2000, 1)
    fields = {"parameters": {"binary_data_output": True, "stride": 4}}
    body, headers = binary_request("UINT8", large.shape, large.tobytes(), **fields)
    lines = [f"{name}: {value}\r\n" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
    limits = ("--max-message-mib", "16", "--max-waiting-mib", "16", "--spool", str(tmp_path))
    with running(MODELS, "--viewer", "127.0.0.1:0", *limits) as server:
        with connect(server, "127.0.0.2") as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.sendall(POST + "".join(lines).encode() + b"\r\n" + body)
            wait_until(lambda: server.events("request"))
            assert server.events("request")[-1]["code"] == "OK"
            with connect(server, "127.0.0.2") as same:
                same.sendall(small_request())
                assert same.recv(1 << 16).startswith(b"HTTP/1.1 429 ")
            assert ask(server, INFER, request(PIXELS)).status == 200
        wait_until(lambda: is_answered(server, "127.0.0.2"))


def small_request() -> bytes:
    """Return a whole request of a small image."""
    body, headers = binary_request("UINT8", PIXELS.shape, PIXELS.tobytes())
    lines = [f"{name}: {value}\r\n" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
    return POST + "".join(lines).encode() + b"\r\n" + body


def is_answered(server: Server, source: str) -> bool:
    """Return whether a small request from an address is answered."""
    with connect(server, source) as connection:
        connection.sendall(small_request())
        return connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_refused_bodies_leave_no_memory(server: Server) -> None:
    """Bodies that are too large only after decompression are refused, and do not stay in memory."""
    bomb = gzip.compress(b" " * (17 << 20))
    ask(server, INFER, bomb, {"Content-Encoding": "gzip"})
    before = peak_mib(server)
    for _ in range(30):
        assert ask(server, INFER, bomb, {"Content-Encoding": "gzip"}).status == 413
    assert peak_mib(server) < before + 100


@pytest.mark.slow
def test_thousands_of_connections(server: Server) -> None:
    """While a client opens thousands of connections, other clients are answered by gRPC; afterwards also by HTTP."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    expected = infer(server, grpc_request("UINT8", PIXELS.shape, PIXELS.tobytes())).raw_output_contents[0]
    files = open_files(server)
    with ExitStack() as opened:
        for number in range(3000):
            connection = opened.enter_context(connect(server, "127.0.0.2"))
            if number % 2:
                connection.sendall(POST + b"Content-Length: 60000\r\n\r\n{" if number % 4 == 1 else HEAD)
            if number % 500 == 0:
                message = grpc_request("UINT8", PIXELS.shape, PIXELS.tobytes())
                assert infer(server, message).raw_output_contents[0] == expected
        assert open_files(server) < files + viewer.MAX_CONNECTIONS + 50
    wait_until(lambda: ask(server, INFER, request(PIXELS)).status == 200)
    wait_until(lambda: open_files(server) < files + 50)


@pytest.mark.slow
def test_handshakes_that_stop_are_ended(tmp_path: Path) -> None:
    """Connections that begin no TLS handshake are ended as others are, and do not keep other clients out."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    options = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with running(MODELS, "--viewer", "127.0.0.1:0", *options) as server, ExitStack() as opened:
        silent = [opened.enter_context(connect(server)) for _ in range(viewer.MAX_CONNECTIONS + 100)]
        assert ask(server, "/v2", tls=anyone).status == 200
        assert received(silent[0]) == received(silent[-1]) == b""


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Requests that a client sends at once on one connection are answered one after another."""
    body, headers = binary_request("UINT8", PIXELS.shape, PIXELS.tobytes(), parameters={"binary_data_output": True})
    lines = [f"{name}: {value}\r\n" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
    with connect(server) as connection:
        connection.sendall((POST + "".join(lines).encode() + b"\r\n" + body) * 3 + HEAD + b"Connection: close\r\n\r\n")
        answers = received(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 4
    raw = infer(server, grpc_request("UINT8", PIXELS.shape, PIXELS.tobytes())).raw_output_contents[0]
    assert answers.count(raw) == 3
