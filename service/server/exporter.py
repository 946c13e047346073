"""An HTTP server, in threads of its own, for Prometheus's /metrics and for /health.

/health is for probes that speak no gRPC or no TLS: 200 SERVING, or 503 NOT_SERVING.
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
    """Export metrics and health on HOST:PORT for as long as the block; yields {"metrics": address}, {} for None.

    Raises OSError if the address cannot be bound; if the metrics are optional, logs a warning instead.
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
        """Say nothing of each request."""


def _listening(address: str, application: WSGIApplication) -> WSGIServer:
    """Listen on HOST:PORT, each request in a thread of its own; raises OSError."""
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
                status, said = ("200 OK", "SERVING") if is_serving() else ("503 Service Unavailable", "NOT_SERVING")
            case _:
                status, said = "404 Not Found", "there: /metrics, /health"
        start(status, [("Content-Type", "text/plain")])
        return [f"{said}\n".encode()]

    return application
