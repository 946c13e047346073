"""What the HTTP server answers: /metrics for Prometheus, and /health for probes.

/health answers 200 SERVING or 503 NOT_SERVING, for probes that cannot use gRPC or TLS.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from email.message import Message
from http import HTTPStatus

from prometheus_client import CollectorRegistry, make_wsgi_app

from service.log import log
from service.server.http import Respond, Response, http_server

TEXT = ("Content-Type", "text/plain")


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
    host, _, port = address.rpartition(":")
    async with AsyncExitStack() as running:
        try:
            bound = await running.enter_async_context(
                http_server(host.strip("[]"), int(port), _respond(registry, is_serving))
            )
        except OSError as error:
            message = f"cannot listen on {address}: {error.strerror}"
            if not optional:
                raise OSError(f"metrics: {message}") from None
            log.warning("no metrics", extra={"record": {"error": message}})
            yield {}
            return
        yield {"metrics": f"{host}:{bound}"}


def _respond(registry: CollectorRegistry, is_serving: Callable[[], bool]) -> Respond:
    """Return the function that answers requests."""

    def respond(path: str, query: str, headers: Message) -> Response:
        match path:
            case "/metrics":
                return _metrics(registry, query, headers)
            case "/health" if is_serving():
                return Response(HTTPStatus.OK, [TEXT], b"SERVING\n")
            case "/health":
                return Response(HTTPStatus.SERVICE_UNAVAILABLE, [TEXT], b"NOT_SERVING\n")
        return Response(HTTPStatus.NOT_FOUND, [TEXT], b"not found; available paths: /metrics, /health\n")

    return respond


def _metrics(registry: CollectorRegistry, query: str, headers: Message) -> Response:
    """Return the metrics in the format that the Accept header names, or as text if the header cannot be understood."""
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": query}
    for name in ("Accept", "Accept-Encoding"):
        values = ",".join(headers.get_all(name, []))
        request[f"HTTP_{name.upper().replace('-', '_')}"] = " ".join(values.split())
    try:
        return _exported(registry, request)
    except (TypeError, ValueError):  # prometheus_client raises them for versions that are not numbers
        return _exported(registry, request | {"HTTP_ACCEPT": ""})


def _exported(registry: CollectorRegistry, request: dict[str, str]) -> Response:
    """Return prometheus_client's answer to a request, which is given as an environment of WSGI."""
    sent: list[tuple[str, str]] = []
    body = make_wsgi_app(registry)(request, lambda _, headers: sent.extend(headers))
    return Response(HTTPStatus.OK, sent, b"".join(body))
