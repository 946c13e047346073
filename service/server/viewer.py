"""The HTTP port: uvicorn's HTTP/1.1 for an application, on the event loop of the server, with limits for connections.

uvicorn's own server would accept any number of connections, wait forever for the head of a first request, and take the
signals of the process. Therefore this module accepts the connections itself. A connection waits while no request of it
is being answered: in the handshake of TLS, before and within the head of a request, and while the client takes the end
of an answer. The application limits the time of the other phases, as for the messages of gRPC. A client that takes
nothing of an answer for too long is disconnected, also for answers that the application does not make. While the
server stops, this time is shorter, and the time to take an answer is limited, so that no client delays the end of the
server for long.
"""

import asyncio
import errno
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.errors import OptionError
from service.log import log
from service.rest.refusals import refusal
from service.server.certificates import Certificates
from service.server.periodic import repeated
from service.server.untaken import Stall, untaken_bytes

WAIT_SECONDS = 10.0
"""Longest time for which a connection may wait."""
KEEP_ALIVE_SECONDS = 5
"""Seconds after an answer in which the next request must begin."""
HEAD_BYTES = 16 << 10
"""Largest size of a request's first line and headers in bytes."""
MAX_DISCARDED_BYTES = 64 << 20
"""Bytes of a body that are still received after the answer, which may be a refusal, and discarded. Clients that read
only after they have sent everything get the answer of a body that is not much too large; endless bodies end."""
MAX_CONNECTIONS = 512
"""Number of open connections. A further one ends the connection that has waited longest, or is closed if none waits."""
SWEEP_SECONDS = 1.0
"""Seconds between two looks for connections that have waited too long, and between two attempts to accept."""
STOP_SECONDS = 3.0
"""Seconds for which a client may take less than LEAST_BYTES of its answer while the server stops."""
CLOSE_SECONDS = 1.0
"""Seconds after the last answer in which a client may close its connection when the server stops."""


@asynccontextmanager
async def viewer(
    address: str,
    application: ASGIApp,
    certificates: Certificates | None,
    idle_seconds: float,
    is_stopping: Callable[[], bool],
) -> AsyncIterator[str]:
    """Serve an application on HOST:PORT for the duration of the block; yields the address. Raises OSError.

    A client that takes nothing of an answer for `idle_seconds` and WAIT_SECONDS is disconnected; while `is_stopping`,
    for STOP_SECONDS, and also if the answer waits longer than `idle_seconds`. The state of each request has
    `common_name`, the name in the client's certificate or None; `closed`, an event that is set when the connection has
    ended; and the functions `abort`, which ends it at once, and `resume_reading`, after which its end is noticed.
    """
    host, _, port = address.rpartition(":")
    try:
        family, *_, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.create_server((str(place[0]), int(port)), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        way_out = "check that the port is free and that the host is an address of this machine"
        raise OSError(f"viewer: cannot listen on {address}: {error.strerror}; {way_out}") from None
    with listener:
        listener.setblocking(False)
        tls = _CurrentContext.of(certificates) if certificates else None
        connections = _Connections(_config(application), tls, idle_seconds, is_stopping)
        async with repeated(connections.end_late, SWEEP_SECONDS):
            accepting = asyncio.create_task(connections.accept(listener))
            try:
                yield f"{host}:{listener.getsockname()[1]}"
            finally:
                accepting.cancel()
                await connections.close()


def _config(application: ASGIApp) -> Config:
    config = Config(
        application,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,  # warnings are about requests that are not HTTP
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    config.load()
    return config


class _CurrentContext(ssl.SSLContext):
    """Gives each new connection the certificates as they were last read."""

    certificates: Certificates

    @classmethod
    def of(cls, certificates: Certificates) -> "_CurrentContext":
        """Return a context that follows the certificates."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.certificates = certificates
        return context

    def wrap_bio(self, *arguments: Any, **keywords: Any) -> ssl.SSLObject:
        """Begin the TLS of a connection."""
        return self.certificates.context.wrap_bio(*arguments, **keywords)


class _Connection(H11Protocol):
    """One connection, from the moment in which it is accepted."""

    def __init__(self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self.waiting_since = loop.time()
        self.is_made = False
        """Whether the handshake has ended."""
        self.stall = Stall()
        self.discarded_bytes = 0
        """Bytes of the body that have arrived after the answer."""
        self.closed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to receive requests."""
        super().connection_made(transport)
        self.is_made = True
        self.app_state = {
            "common_name": _common_name(transport),
            "closed": self.closed,
            "abort": transport.abort,
            "resume_reading": self.flow.resume_reading,
        }

    def connection_lost(self, exc: Exception | None) -> None:
        """End the work for this connection."""
        super().connection_lost(exc)
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; ends the connection if too much arrives after the answer."""
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self.discarded_bytes += len(data)
        if self.discarded_bytes > MAX_DISCARDED_BYTES:
            self.transport.abort()
        else:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's message has no reason)
        """Refuse a request that is not valid HTTP in the form of all errors, and end the connection."""
        valid = f"a valid head of at most {HEAD_BYTES >> 10} KiB and a valid body"
        expected = f"request: expected HTTP/1.1 with {valid}, got other bytes"
        answer = refusal(OptionError(f"{expected}; check that the client sends HTTP to this port"))
        headers = answer.headers | {"content-length": str(answer.size), "connection": "close"}
        response = h11.Response(status_code=answer.status, headers=list(headers.items()), reason=answer.status.phrase)
        for event in (response, h11.Data(data=answer.parts[0]), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def untaken_bytes(self) -> int:
        """Bytes of answers that wait until the client takes them."""
        return untaken_bytes(self.transport) if self.is_made else 0

    def is_late(self, now: float, stall_seconds: float, answer_seconds: float) -> bool:
        """Return whether the client has let the server wait too long.

        It may take nothing of an answer for `stall_seconds`, and must take the whole answer in `answer_seconds`.
        """
        has_waited = self.is_waiting and now - self.waiting_since > WAIT_SECONDS
        has_stalled = self.stall.seconds(now, self.untaken_bytes) > stall_seconds
        return has_waited or has_stalled or self.stall.waiting_seconds(now) > answer_seconds

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.discarded_bytes = 0
        self.waiting_since = self.loop.time()
        super().on_response_complete()

    def abort(self) -> None:
        """End the connection at once, also during the handshake."""
        if self.is_made:
            self.transport.abort()
        elif self.task is not None:
            self.task.cancel()

    def end(self) -> None:
        """End the connection after the answer to its request, if there is one."""
        if not self.is_made:
            self.abort()
        elif not self.transport.is_closing():
            self.shutdown()


@dataclass
class _Connections:
    """The open connections."""

    config: Config
    tls: ssl.SSLContext | None
    idle_seconds: float
    is_stopping: Callable[[], bool]
    connections: set[_Connection] = field(default_factory=set)
    state: ServerState = field(default_factory=ServerState)
    """What uvicorn keeps for all connections."""
    is_short: bool = False
    """Whether the last connection could not be accepted."""

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # or no other work would run while clients keep connecting
            try:
                accepted, _ = await loop.sock_accept(listener)
                self.is_short = False
            except OSError as error:
                self._report(error)
                await asyncio.sleep(SWEEP_SECONDS)
                continue
            if not self._make_room():
                accepted.close()
                continue
            connection = _Connection(self.config, self.state, loop)
            self.connections.add(connection)
            connection.task = loop.create_task(self._open(connection, accepted))

    async def end_late(self) -> None:
        """End the connections whose clients have let the server wait too long.

        The application ends its own answers after `idle_seconds`, and logs the reason; therefore others end later.
        """
        now = asyncio.get_running_loop().time()
        limits = (self.idle_seconds + WAIT_SECONDS, math.inf)
        if self.is_stopping():
            limits = (STOP_SECONDS, self.idle_seconds)
        for connection in tuple(self.connections):
            if connection.is_late(now, *limits):
                connection.abort()

    async def close(self) -> None:
        """End all connections; first let the clients take the rest of their answers.

        Meanwhile, `end_late` ends the connections of clients that do not take them.
        """
        for connection in self.connections:
            connection.end()
        while tasks := {connection.task for connection in self.connections if connection.task is not None}:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for connection in self.connections:
                if not connection.untaken_bytes:  # such as a client of TLS that does not confirm the end
                    connection.abort()

    async def _open(self, connection: _Connection, accepted: socket.socket) -> None:
        timeout = None if self.tls is None else WAIT_SECONDS
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=self.tls, ssl_handshake_timeout=timeout
            )
            await connection.closed.wait()
        except OSError:  # the client has not completed the handshake
            accepted.close()
        finally:
            self.connections.discard(connection)

    def _make_room(self) -> bool:
        """End the connection that has waited longest if there are too many; returns whether there is room now."""
        if len(self.connections) < MAX_CONNECTIONS:
            return True
        waiting = self._waiting()
        if waiting:
            oldest = min(waiting, key=lambda connection: connection.waiting_since)
            oldest.abort()
            self.connections.discard(oldest)
        return bool(waiting)

    def _waiting(self) -> list[_Connection]:
        return [connection for connection in self.connections if connection.is_waiting]

    def _report(self, error: OSError) -> None:
        """Log that no connection can be accepted, once until one is accepted."""
        if error.errno != errno.ECONNABORTED and not self.is_short:
            self.is_short = True
            log.error("viewer", extra={"record": {"error": f"cannot accept connections: {error.strerror}"}})


def _common_name(transport: asyncio.Transport) -> str | None:
    """Return the common name in the client's certificate."""
    subject = (transport.get_extra_info("peercert") or {}).get("subject", ())
    names = dict(pair for part in subject for pair in part)
    return names.get("commonName")
