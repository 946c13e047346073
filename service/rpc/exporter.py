"""Prometheus metrics over HTTP, in a thread of their own: they are there while the server is busy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import start_http_server

from service import metrics
from service.log import log


@asynccontextmanager
async def exported(address: str | None, *, optional: bool) -> AsyncIterator[dict[str, str]]:
    """Export the metrics on HOST:PORT as long as the block, and say where; nothing for None.

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
    try:
        yield {"metrics": f"{host}:{server.server_port}"}
    finally:
        server.shutdown()
        thread.join()
