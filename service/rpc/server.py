"""The server: what listens, and how it starts and stops.

SIGTERM or SIGINT: health says NOT_SERVING, new requests are refused with UNAVAILABLE, what was admitted is answered,
then the process ends. A second signal ends it at once.
"""

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.limits import Limits
from service.log import log
from service.rpc.servicer import SERVICE, ScoringServicer
from service.rpc.spool import Spool
from service.scoring import Scorer

GOODBYE_SECONDS = 0.5
"""For whoever still watches the health when every request is answered."""


@dataclass(frozen=True)
class Settings:
    """What the server is started with."""

    models: Path
    listen: str
    spool: Path
    slots: int
    limits: Limits


async def serve(settings: Settings) -> None:
    """Serve until a signal; raises OSError if the address cannot be had."""
    servicer = ScoringServicer(
        Scorer(settings.models, settings.limits),
        Spool(settings.spool, settings.limits.spool_bytes),
        slots=settings.slots,
    )
    server, checks = grpc.aio.server(options=_options(settings.limits)), health.aio.HealthServicer()
    server.add_generic_rpc_handlers([servicer.handlers()])
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = (SERVICE.full_name, health.SERVICE_NAME)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    address = _bind(server, settings.listen)
    signals = _signals()
    await server.start()
    for name in ("", *names):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("listening", extra={"record": {"address": address, "models": str(settings.models)}})
    await signals.get()
    log.info("draining")
    await checks.enter_graceful_shutdown()
    await _stop(server, servicer, signals)
    log.info("stopped")


async def _stop(server: grpc.aio.Server, servicer: ScoringServicer, signals: asyncio.Queue[None]) -> None:
    """Stop when all is answered; at the next signal end the process, whatever its threads do."""
    drained, again = asyncio.create_task(servicer.drain()), asyncio.create_task(signals.get())
    await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        log.info("stopped at once")
        os._exit(1)
    again.cancel()
    await server.stop(GOODBYE_SECONDS)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.so_reuseport", 0),  # a second server on this port is a mistake, and an error
    ]


def _bind(server: grpc.aio.Server, listen: str) -> str:
    """Listen; returns the address with the port that was given."""
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"listen: cannot listen on {listen}: {error}; is the port taken?") from None
    return f"{listen.rpartition(':')[0]}:{port}"


def _signals() -> asyncio.Queue[None]:
    """SIGTERM and SIGINT, as they come."""
    arrived: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, arrived.put_nowait, None)
    return arrived
