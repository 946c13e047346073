"""The HTTP server of metrics and health, with clients that are slow, hostile or odd."""

import asyncio
import errno
import gzip
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import pytest
from prometheus_client import CollectorRegistry, Counter
from support.paths import ROOT
from support.servers import running, wait_until

from fullconv import Client, UnavailableError
from service.server import http
from service.server.exporter import exported
from service.server.probe import is_serving

HEALTH = b"GET /health HTTP/1.0\r\n\r\n"
FORMATS = (b"text/plain; version=0.0.4", b"application/openmetrics-text; version=1.0.0")


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """The address of an exporter whose registry has one counter; the server runs in this process."""
    registry, ended, started = CollectorRegistry(), Event(), Event()
    Counter("things", "Some things.", ["name"], registry=registry).labels("a\u202eb").inc()
    bound: dict[str, str] = {}

    async def serve() -> None:
        async with exported("127.0.0.1:0", registry, lambda: True, optional=False) as addresses:
            bound.update(addresses)
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert started.wait(60)
    host, _, port = bound["metrics"].rpartition(":")
    try:
        yield host, int(port)
    finally:
        ended.set()
        thread.join()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=60)


def received(connection: socket.socket) -> bytes:
    """Everything that the server sends until it ends the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def ask(address: tuple[str, int], request: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return the status, the headers and the body of the answer to a request."""
    with connect(address) as connection:
        connection.sendall(request)
        head, _, body = received(connection).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return int(first.split()[1]), dict(line.split(b": ", 1) for line in lines), body


@pytest.mark.parametrize(
    "accept",
    [
        b"application/openmetrics-text;version=abc",
        b"text/plain;version=1.x",
        b"text/plain;version=" + b"9" * 5000,
        b"application/openmetrics-text;\r\n version=1.0.0;x=\r\n y",
        b"application/openmetrics-text;version=1.0.0\r\nAccept: text/plain;version=v",
        b"\xff\xfe\x00;=,,;version==",
        b",".join([b"text/plain;version=0.0.4;q=0.5"] * 400),
        b"",
    ],
    ids=["word", "half", "long number", "folded", "twice", "bytes", "many", "empty"],
)
def test_odd_accept_headers(address: tuple[str, int], accept: bytes) -> None:
    """Metrics are sent whatever the Accept header holds, in a format of Prometheus."""
    status, headers, body = ask(address, b"GET /metrics HTTP/1.1\r\nAccept: " + accept + b"\r\n\r\n")
    assert status == 200
    assert headers[b"Content-Type"].startswith(FORMATS)
    assert b"things_total" in body


def test_formats(address: tuple[str, int]) -> None:
    """OpenMetrics is sent to clients that accept it, and compressed bodies to clients that accept gzip."""
    accept = b"Accept: application/openmetrics-text; version=1.0.0\r\nAccept-Encoding: gzip\r\n"
    status, headers, body = ask(address, b"GET /metrics?name[]=things_total HTTP/1.1\r\n" + accept + b"\r\n")
    assert (status, headers[b"Content-Encoding"]) == (200, b"gzip")
    assert headers[b"Content-Type"].startswith(b"application/openmetrics-text; version=1.0.0")
    assert gzip.decompress(body).endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"DELETE /health HTTP/1.1\r\n\r\n", 405),
        (b"OPTIONS /metrics HTTP/1.1\r\n\r\n", 200),
        (b"BREW /metrics HTTP/1.1\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET http://[/health HTTP/1.1\r\n\r\n", 404),
        (b"GET /health HTTP/9.9\r\n\r\n", 505),
        (b"GET /health HTTP/x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nno colon here\r\n\xff\xff: \x00\r\n\r\n", 200),
        (b"GET /health HTTP/1.0\n\n", 200),
        (b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nA: " + b"b" * (1 << 20) + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 1000 + b"\r\n", 431),
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n", 414),
    ],
    ids=[
        *("post", "delete", "options", "unknown", "no path", "damaged URL", "version", "no version", "TLS", "odd"),
        *("line feeds", "many headers", "long header", "long headers", "long path"),
    ],
)
def test_odd_requests(address: tuple[str, int], request_: bytes, status: int) -> None:
    """An odd request gets the status that HTTP has for it, and the server goes on."""
    assert ask(address, request_)[0] == status
    assert ask(address, HEALTH)[::2] == (200, b"SERVING\n")


@pytest.mark.parametrize("path", [b"/metrics", b"/health", b"/none"])
def test_head(address: tuple[str, int], path: bytes) -> None:
    """HEAD gets the status and the headers of GET without the body."""
    status, headers, body = ask(address, b"GET " + path + b" HTTP/1.1\r\n\r\n")
    of_head = ask(address, b"HEAD " + path + b" HTTP/1.1\r\n\r\n")
    assert int(headers[b"Content-Length"]) == len(body) > 0
    assert of_head[0] == status
    assert (of_head[1].keys(), of_head[2]) == (headers.keys(), b"")


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nAccept: "], ids=["nothing", "line", "header"]
)
def test_half_requests_end(address: tuple[str, int], sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a whole request is ended after a time."""
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.2)
    with connect(address) as connection:
        connection.sendall(sent)
        assert received(connection) == b""


def test_slow_requests_end(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole request: a client that keeps sending a byte at a time is ended too."""
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.5)
    with connect(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nA: ")
        wait_until(lambda: _is_reset(connection))


def test_clients_that_do_not_read_end(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose client takes no answer, or does not close it, is ended after a time."""
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.2)
    with connect(address) as connection:
        connection.sendall(HEALTH)
        wait_until(lambda: _is_reset(connection))


def _is_reset(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"a")
    except OSError:
        return True
    return False


def test_many_connections_do_not_keep_others_out(address: tuple[str, int]) -> None:
    """Connections that send nothing are bounded, the oldest are ended, and a whole request is answered at once."""
    idle = [connect(address) for _ in range(http.MAX_CONNECTIONS + 20)]
    try:
        assert ask(address, HEALTH)[0] == 200
        assert received(idle[0]) == b""  # would fail after a minute
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(lambda _: ask(address, HEALTH)[0], range(200))) == {200}
    finally:
        for connection in idle:
            connection.close()


def test_a_shortage_of_descriptors_does_not_spin(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """While accepting fails, the server tries once a second; afterwards the waiting connection is answered."""
    accept, failed = socket.socket.accept, list[float]()
    short = Event()
    short.set()

    def fail(listener: socket.socket) -> tuple[socket.socket, object]:
        if short.is_set():
            failed.append(time.monotonic())
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fail)
    with connect(address) as connection:
        connection.sendall(HEALTH)
        wait_until(lambda: failed and failed[-1] - failed[0] > 0.9)
        short.clear()
        assert received(connection).endswith(b"SERVING\n")
    assert len(failed) <= 2 * 100  # asyncio tries as often as its backlog in each round


def test_a_process_without_descriptors() -> None:
    """A server that has no file descriptors left logs it once, and answers on its metrics port afterwards."""
    with running(ROOT / "models") as server:
        pid, metrics = server.process.pid, server.log[0]["metrics"]
        assert is_serving(metrics)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        host, _, port = metrics.rpartition(":")
        with connect((host, int(port))) as connection:
            connection.sendall(HEALTH)
            wait_until(lambda: server.events("metrics"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            assert received(connection).endswith(b"SERVING\n")
        assert [line["error"] for line in server.events("metrics")] == [
            "cannot accept connections: Too many open files"
        ]


def test_clients_of_the_wrong_port_are_told(address: tuple[str, int]) -> None:
    """A gRPC client that is given this port gets an error that names the right one."""
    where = f"127.0.0.1:{address[1]}"
    with Client(where) as client, pytest.raises(UnavailableError) as caught:
        client.model("digits")
    expected = "expected gRPC, got HTTP; give the port of --listen, not of --metrics or --viewer"
    assert str(caught.value) == f"server {where}: {expected}"
