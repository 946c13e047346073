"""The HTTP server, in its own threads: /metrics for Prometheus, and /health for probes.

/health answers 200 SERVING or 503 NOT_SERVING, for probes that cannot use gRPC or TLS.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from service.log import log


@asynccontextmanager
async def exported(
    address: str | None, registry: CollectorRegistry, is_serving: Callable[[], bool], *, optional: bool
) -> AsyncIterator[dict[str, str]]:
    """Serve metrics and health on HOST:PORT for the duration of the block.

    Yields {"metrics": address}, or {} if there is no HTTP server: for the address None, and, if metrics are optional,
    for an address that cannot be bound, which is logged as a warning. Otherwise raises OSError for such an address.
    """
    if address is None:
        yield {}
        return
    try:
        server = _listening(address, _application(registry, is_serving))
    except OSError as error:
        if optional:
            log.warning("no metrics", extra={"record": {"error": f"cannot listen on {address}: {error.strerror}"}})
            yield {}
            return
        raise OSError(f"metrics: cannot listen on {address}: {error.strerror}") from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield {"metrics": f"{address.rpartition(':')[0]}:{server.server_port}"}
    finally:
        server.shutdown()
        thread.join()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do not log requests."""


def _listening(address: str, application: WSGIApplication) -> WSGIServer:
    """Return a server that listens on HOST:PORT and answers each request in a new thread; raises OSError."""
    host, _, port = address.rpartition(":")
    family, *_, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]

    class Server(ThreadingWSGIServer):
        address_family = family

    return make_server(str(place[0]), int(place[1]), application, Server, _Quiet)


def _application(registry: CollectorRegistry, is_serving: Callable[[], bool]) -> WSGIApplication:
    export = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return list(export(environ, start))
            case "/health":
                status, text = ("200 OK", "SERVING") if is_serving() else ("503 Service Unavailable", "NOT_SERVING")
            case _:
                status, text = "404 Not Found", "not found; available paths: /metrics, /health"
        start(status, [("Content-Type", "text/plain")])
        return [f"{text}\n".encode()]

    return application
