"""What is asked over HTTP, and answered in threads of its own: Prometheus's /metrics, and /health, whether it serves.

Probes that speak no gRPC, or no TLS, have the second: 200 SERVING, or 503 NOT_SERVING.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import make_wsgi_app, start_http_server

from service import metrics
from service.log import log


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
    server.set_app(_application(is_serving))
    try:
        yield {"metrics": f"{host}:{server.server_port}"}
    finally:
        server.shutdown()
        thread.join()


def _application(is_serving: Callable[[], bool]) -> WSGIApplication:
    export = make_wsgi_app(metrics.REGISTRY)

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
