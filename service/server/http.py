"""A small HTTP server for probes and for Prometheus, in a thread of its own, with limits for its connections.

asyncio keeps the limits. If the process has no file descriptors left, asyncio accepts no connection for a second and
then tries again. http.server parses requests and forms answers.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from threading import Thread
from typing import Any

from service.log import log

REQUEST_SECONDS = 10.0
"""Seconds from the start of a connection until the client must have sent its request and taken the answer."""
HEAD_BYTES = 16 << 10
"""Largest size of a request's first line and headers in bytes."""
MAX_CONNECTIONS = 64
"""Number of open connections. A further connection ends the oldest, whose client has had the most time."""

ALLOW = ("Allow", "GET, HEAD, OPTIONS")


@dataclass(frozen=True)
class Response:
    """The answer to a GET request. `headers` are those besides Content-Length."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: bytes


Respond = Callable[[str, str, Message], Response]
"""Answers a GET request by its path, its query and its headers."""


@asynccontextmanager
async def http_server(host: str, port: int, respond: Respond) -> AsyncIterator[int]:
    """Serve HTTP on a port for the duration of the block; yields the port that was assigned. Raises OSError."""
    family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server((str(place[0]), port), family=family) as listener, _loop_in_thread() as loop:
        server = _Server(respond)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(server.start(listener), loop))
        try:
            yield int(listener.getsockname()[1])
        finally:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(server.stop(), loop))


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread of its own for the duration of the block."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="http", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class _Server:
    """The connections of a server; used only in its thread."""

    respond: Respond
    listening: asyncio.Server | None = None
    connections: deque[asyncio.StreamWriter] = field(default_factory=deque)
    """The open connections, the oldest first."""
    is_short: bool = False
    """Whether the last connection could not be accepted."""

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        asyncio.get_running_loop().set_exception_handler(self._report)
        self.listening = await asyncio.start_server(self._serve, sock=listener, limit=HEAD_BYTES)

    async def stop(self) -> None:
        """Accept no more connections, and end the open ones."""
        if self.listening is not None:
            self.listening.close()
        while serving := asyncio.all_tasks() - {asyncio.current_task()}:
            for connection in self.connections:
                connection.transport.abort()
            await asyncio.wait(serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the request of a connection, if it arrives in time, and end the connection."""
        self.is_short = False
        if len(self.connections) >= MAX_CONNECTIONS:
            self.connections.popleft().transport.abort()
        self.connections.append(writer)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await _read_head(reader)
                writer.write(_Exchange(head, self.respond).answer)
                writer.write_eof()
                while await reader.read(HEAD_BYTES):  # to close with unread bytes would withdraw the answer
                    pass
        except (OSError, TimeoutError):  # the client has gone, or it is too slow
            pass
        finally:
            writer.transport.abort()
            with suppress(ValueError):
                self.connections.remove(writer)

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error of the event loop; a shortage of file descriptors only once until a connection is accepted."""
        error = context.get("exception")
        if not isinstance(error, OSError):
            loop.default_exception_handler(context)
        elif not self.is_short:
            self.is_short = True
            log.error("metrics", extra={"record": {"error": f"cannot accept connections: {error.strerror}"}})


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Return the first line and the headers of a request; if they are too long, at least HEAD_BYTES bytes of them."""
    head = b""
    while len(head) < HEAD_BYTES:
        try:
            line = await reader.readuntil()
        except asyncio.IncompleteReadError as error:
            return head + error.partial
        except asyncio.LimitOverrunError:
            line = await reader.read(HEAD_BYTES)
        head += line
        if line in (b"\r\n", b"\n"):
            break
    return head


class _Exchange(BaseHTTPRequestHandler):
    """Parses a request, and holds the answer to it: empty if there is no request."""

    server_version, sys_version, default_request_version = "fullconv", "", "HTTP/1.0"
    rfile: BytesIO
    wfile: BytesIO

    def __init__(self, head: bytes, respond: Respond) -> None:
        self.rfile, self.wfile, self._respond = BytesIO(head), BytesIO(), respond
        if len(head) < HEAD_BYTES:
            self.handle_one_request()
            return
        self.command, self.requestline, self.request_version = "", "", self.protocol_version
        is_line = b"\n" not in head
        self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG if is_line else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    @property
    def answer(self) -> bytes:
        """Return the answer as the client gets it."""
        return self.wfile.getvalue()

    def do_GET(self) -> None:
        """Answer a GET or HEAD request."""
        path, _, query = self.path.partition("?")
        try:
            response = self._respond(path, query, self.headers)
        except Exception:  # a bug in one answer must not end the server
            log.exception("bug")
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR, [], b"")
        self._send(response)

    def do_OPTIONS(self) -> None:
        """Answer which methods there are."""
        self._send(Response(HTTPStatus.OK, [ALLOW], b""))

    def do_POST(self) -> None:
        """Refuse a method that changes something."""
        self._send(Response(HTTPStatus.METHOD_NOT_ALLOWED, [ALLOW], b""))

    do_HEAD = do_GET  # noqa: N815 (http.server calls these names)
    do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Do not log requests."""

    def _send(self, response: Response) -> None:
        """Form the answer; that to HEAD has no body."""
        self.send_response(response.status)
        for name, value in [*response.headers, ("Content-Length", str(len(response.body)))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
