"""The server: what listens, and how it starts and stops.

SIGTERM or SIGINT: health says NOT_SERVING, new requests are refused with UNAVAILABLE, what was admitted is answered,
then the process ends. A second signal ends it at once.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import onnxruntime as ort
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service import machine, metrics
from service.admission import Admission
from service.engine.registry import Registry
from service.engine.scheduler import Scheduler
from service.log import log
from service.rpc.access import Access, Tokens
from service.rpc.calls import Calls
from service.rpc.exporter import exported
from service.rpc.servicer import SERVICE, ScoringServicer
from service.rpc.spool import Spool
from service.scoring import Scorer
from service.settings import MIB, Settings

GOODBYE_SECONDS = 0.5
"""For whoever still watches the health when every request is answered."""
AGE_GRACE_SECONDS = 3600
"""For the calls on a connection that is renewed."""
TOKENS_SECONDS = 5.0


async def serve(settings: Settings) -> None:
    """Serve until a signal; raises OSError if an address cannot be had or a file cannot be used."""
    ort.set_global_thread_pool_sizes(settings.threads or machine.cpus(), 1)
    limits = settings.limits
    registry = Registry(
        settings.models,
        weights_bytes=None if settings.weights_mib is None else settings.weights_mib * MIB,
        warm=True,
        report=reported,
    )
    tokens = Tokens(settings.tokens) if settings.tokens else None
    scheduler = Scheduler(slots=settings.slots, batching=settings.batching, observe=metrics.batch)
    admission, calls = Admission(limits), Calls(Access(tokens))
    spool = Spool(settings.spool, limits.spool_bytes)
    scoring = ScoringServicer(Scorer(registry, limits), scheduler, admission, spool, calls)
    metrics.watch(admission, scheduler)

    server, checks = grpc.aio.server(options=_options(settings)), health.aio.HealthServicer()
    server.add_generic_rpc_handlers([scoring.handlers()])
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = (SERVICE.full_name, health.SERVICE_NAME)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    async with AsyncExitStack() as running:
        address, signals = _bind(server, settings), _signals()
        optional = "metrics" not in settings.model_fields_set
        looks = await running.enter_async_context(exported(settings.metrics, optional=optional))
        await running.enter_async_context(repeated(registry.refresh, settings.poll))
        if tokens:
            await running.enter_async_context(repeated(tokens.refresh, TOKENS_SECONDS))
        await server.start()
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("listening", extra={"record": {"address": address, "models": str(settings.models)} | looks})
        await signals.get()
        log.info("draining")
        await checks.enter_graceful_shutdown()
        await _stop(server, calls, signals)
    scheduler.close()
    log.info("stopped")


async def _stop(server: grpc.aio.Server, calls: Calls, signals: asyncio.Queue[None]) -> None:
    """Stop when all is answered; at the next signal end the process, whatever its threads do."""
    drained, again = asyncio.create_task(calls.drain()), asyncio.create_task(signals.get())
    await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        log.info("stopped at once")
        os._exit(1)
    again.cancel()
    await server.stop(GOODBYE_SECONDS)


@asynccontextmanager
async def repeated(work: Callable[[], None], seconds: float) -> AsyncIterator[None]:
    """Do some blocking work now and then, as long as the block; never, if that is every 0 seconds."""

    async def repeat() -> None:
        while seconds:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(work)
            except Exception:
                log.exception("bug")

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()


def reported(model: str, version: str, error: str) -> None:
    """Say what became of a version, in the log and in the metrics."""
    metrics.loaded(model, version, error)
    record: dict[str, Any] = {"model": model, "version": version}
    if error:
        log.error("not loaded", extra={"record": record | {"error": error}})
    else:
        log.info("loaded", extra={"record": record})


def _options(settings: Settings) -> list[tuple[str, int]]:
    message_bytes = settings.limits.message_bytes
    options = [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_concurrent_streams", settings.max_waiting),
        ("grpc.so_reuseport", 0),  # a second server on this port is a mistake, and an error
    ]
    if settings.max_age:
        options += [
            ("grpc.max_connection_age_ms", int(settings.max_age * 1e3)),
            ("grpc.max_connection_age_grace_ms", AGE_GRACE_SECONDS * 1000),
        ]
    return options


def _bind(server: grpc.aio.Server, settings: Settings) -> str:
    """Listen; returns the address with the port that was given."""
    listen, credentials = settings.listen, _credentials(settings)
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"listen: cannot listen on {listen}: {error}; is the port taken?") from None
    return f"{listen.rpartition(':')[0]}:{port}"


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
    ca = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)


def _signals() -> asyncio.Queue[None]:
    """SIGTERM and SIGINT, as they come."""
    arrived: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, arrived.put_nowait, None)
    return arrived
