"""Over HTTP, in a thread of its own, what watches a server asks: Prometheus metrics, and at /health whether it serves.

Probes that speak no gRPC, or no TLS, have the second: 200 SERVING, or 503 NOT_SERVING.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import make_wsgi_app, start_http_server

from service import metrics
from service.log import log

HEALTH = "/health"


@asynccontextmanager
async def exported(
    address: str | None, is_serving: Callable[[], bool], *, optional: bool
) -> AsyncIterator[dict[str, str]]:
    """Export the metrics and the health on HOST:PORT as long as the block, and say where; nothing for None.

    Raises OSError if the address cannot be had, unless the metrics are optional.
    """
    if address is None:
        yield {}
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), metrics.REGISTRY)
    except OSError as error:
        if optional:
            log.warning("no metrics", extra={"record": {"error": f"cannot listen on {address}: {error.strerror}"}})
            yield {}
            return
        raise OSError(f"metrics: cannot listen on {address}: {error.strerror}; is the port taken?") from None
    server.set_app(_with_health(make_wsgi_app(metrics.REGISTRY), is_serving))
    try:
        yield {"metrics": f"{host}:{server.server_port}"}
    finally:
        server.shutdown()
        thread.join()


def _with_health(others: WSGIApplication, is_serving: Callable[[], bool]) -> WSGIApplication:
    """An application that answers /health itself."""

    def application(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] != HEALTH:
            return list(others(environ, start))
        serving = is_serving()
        start("200 OK" if serving else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"SERVING\n" if serving else b"NOT_SERVING\n"]

    return application
