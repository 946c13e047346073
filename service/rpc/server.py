"""The server: what listens, and how it starts and stops.

SIGTERM, SIGINT or SIGHUP: health says NOT_SERVING, new requests are refused with UNAVAILABLE, what was admitted is
answered, then the process ends. Another signal, a second later, ends it at once.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from threading import Thread
from typing import Any

import grpc
import onnxruntime as ort
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fullconv import __version__
from service import machine, metrics
from service.admission import Admission
from service.engine.registry import Event, Registry
from service.engine.repository import NAMES
from service.engine.scheduler import Scheduler
from service.images.allowed_directory import AllowedDirectory
from service.log import log
from service.rpc.access import Access, Tokens
from service.rpc.calls import Calls
from service.rpc.certificates import Certificates
from service.rpc.exporter import exported
from service.rpc.inference import SERVICE as INFERENCE
from service.rpc.inference import InferenceServicer
from service.rpc.servicer import SERVICE, ScoringServicer
from service.rpc.spool import Spool
from service.rpc.traces import Traced
from service.scoring import Scorer
from service.settings import Settings

GRACE_SECONDS = 1.0
"""After a signal, in which another one is the same: some send it to a process and to its group."""
GOODBYE_SECONDS = 0.5
"""For whoever still watches the health when every request is answered."""
OTHERS = 16
"""Calls on one connection beside those that wait: health checks."""
KEEPALIVE_MS = 60_000
FATAL = 4
HEALTH_SECONDS = 2.0
"""That the loop has to say whether it serves."""
FILES_SECONDS = 5.0
"""Between looks at the files of tokens and certificates."""
REST_SECONDS, REST_BYTES = 10.0, 64 << 20
"""Between looks at whether the server rests: whether fewer bytes came than this."""


async def serve(settings: Settings) -> None:
    """Serve until a signal ends the process; raises OSError if an address cannot be had or a file cannot be used."""
    limits = settings.limits
    machine.configure_malloc(2 * limits.message_bytes)
    start_threads(settings.threads or machine.cpus())
    registry = _registry(settings)
    tokens = Tokens(settings.tokens) if settings.tokens else None
    certificates = _certificates(settings)
    scheduler = Scheduler(
        slots=settings.slots, batching=settings.batching, observe=metrics.batch, prepare=machine.lower_priority
    )
    traces = Traced() if settings.traces else None
    admission, calls = Admission(limits), Calls(Access(tokens), traces, idle=limits.idle_seconds)
    spool = Spool(settings.spool, limits.spool_bytes)
    scoring = ScoringServicer(
        Scorer(registry, limits, AllowedDirectory(settings.images)), scheduler, admission, spool, calls
    )
    renewed = [files for files in (tokens, certificates) if files]
    metrics.watch(admission, scheduler, registry, lambda: sum(files.stale for files in renewed))
    checks = health.aio.HealthServicer()
    models = Models(registry, checks)
    await checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)  # not yet

    server = grpc.aio.server(options=_options(settings))
    inference = InferenceServicer(scoring, registry, calls)
    names = _add(server, scoring, inference, checks)
    async with AsyncExitStack() as running:
        credentials = certificates.credentials() if certificates else None
        address, signals = _bind(server, "listen", settings.listen, credentials), _signals()
        optional = "metrics" not in settings.model_fields_set
        looks = await running.enter_async_context(exported(settings.metrics, health_of(checks), optional=optional))
        if settings.admin:
            admin = InferenceServicer(scoring, registry, calls, changed=models.show)
            looks["admin"] = await running.enter_async_context(administered(settings.admin, admin))
        for files in renewed:
            await running.enter_async_context(repeated(partial(asyncio.to_thread, files.refresh), FILES_SECONDS))
        await running.enter_async_context(repeated(Rest(registry, calls).look, REST_SECONDS))
        await server.start()
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        await models.show()
        place = {"address": address, "models": str(settings.models), "version": __version__}
        log.info("listening", extra={"record": place | looks})
        await running.enter_async_context(repeated(models.look, settings.poll))
        await signals.get()
        log.info("draining")
        await checks.enter_graceful_shutdown()
        await _unless_told_again(signals, _end(server, calls, traces))
    scheduler.close()
    log.info("stopped")
    os._exit(0)  # all is answered; a thread that reads a model's files is not waited for


def health_of(checks: health.aio.HealthServicer) -> Callable[[], bool]:
    """What says, in another thread, whether the server serves: the loop of this one answers, or else it does not."""
    loop = asyncio.get_running_loop()

    def is_serving() -> bool:
        answer = asyncio.run_coroutine_threadsafe(checks.Check(health_pb2.HealthCheckRequest(), None), loop)
        try:
            return bool(answer.result(HEALTH_SECONDS).status == health_pb2.HealthCheckResponse.SERVING)
        except TimeoutError:
            return False

    return is_serving


class Models:
    """The health of every model, as `models/NAME`."""

    def __init__(self, registry: Registry, checks: health.aio.HealthServicer) -> None:
        self._registry, self._checks = registry, checks
        self._shown: set[str] = set()
        self._warned: set[str] = set()
        self._checking = ThreadPoolExecutor(1, "check", machine.lower_priority)
        """Large files are hashed when nothing else is to be done."""

    async def look(self) -> None:
        """Look at the repository again, and check the files of what was not asked for yet, one after the other."""
        try:
            await asyncio.to_thread(self._registry.refresh)
            self._warn(await asyncio.to_thread(self._registry.invalid_names))
            for name, version in self._registry.models():
                await asyncio.get_running_loop().run_in_executor(self._checking, self._registry.check, name, version)
        finally:
            await self.show()

    def _warn(self, folders: list[str]) -> None:
        """Say once of each folder that nobody can ask for it."""
        for folder in folders:
            if folder not in self._warned:
                log.warning("not a model", extra={"record": {"folder": folder, "error": NAMES}})
        self._warned = set(folders)

    async def show(self) -> None:
        """Say which models can be asked, and which cannot any longer."""
        ready = {name for name, version in self._registry.models() if self._registry.state(name, version)[0]}
        self._shown |= {name for name, _ in self._registry.models()}
        for name in self._shown:
            serving = health_pb2.HealthCheckResponse.SERVING
            status = serving if name in ready else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._checks.set(f"models/{name}", status)


class Rest:
    """Gives memory back when hardly anything comes: a busy server would only ask for it again, page by page."""

    def __init__(self, registry: Registry, calls: Calls) -> None:
        self._registry, self._calls = registry, calls
        self._seen = 0

    async def look(self) -> None:
        """Look at what came since the last look."""
        came, self._seen = self._calls.received_bytes - self._seen, self._calls.received_bytes
        if came < REST_BYTES:
            await asyncio.to_thread(self._registry.shrink_arena)
            await asyncio.to_thread(machine.trim_heap)


@asynccontextmanager
async def administered(address: str, servicer: InferenceServicer) -> AsyncIterator[str]:
    """Load and unload models on HOST:PORT as long as the block, and say where."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([servicer.handlers()])
    bound = _bind(server, "admin", address)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


async def _end(server: grpc.aio.Server, calls: Calls, traces: Traced | None) -> None:
    """Stop when all is answered, and hand over what is left of the traces."""
    await calls.drain()
    await server.stop(GOODBYE_SECONDS)
    if traces:
        await asyncio.to_thread(traces.close)


async def _unless_told_again(signals: asyncio.Queue[None], end: Coroutine[Any, Any, None]) -> None:
    """Wait for the end; at the next signal that is another one end the process, whatever its threads do."""
    ended = asyncio.create_task(end)
    await asyncio.wait({ended}, timeout=GRACE_SECONDS)
    while not signals.empty():
        signals.get_nowait()
    again = asyncio.create_task(signals.get())
    await asyncio.wait({ended, again}, return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        log.info("stopped at once")
        os._exit(1)
    again.cancel()
    await ended


@asynccontextmanager
async def repeated(work: Callable[[], Awaitable[None]], seconds: float) -> AsyncIterator[None]:
    """Do some work now and then, as long as the block; once, if that is every 0 seconds."""

    async def repeat() -> None:
        while True:
            try:
                await work()
            except Exception:  # it is tried again; the log says what nobody foresaw
                log.exception("bug")
            if not seconds:
                return
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()


def start_threads(count: int) -> None:
    """Start the threads that all sessions share: those that compute stand back for those that answer."""

    def start() -> None:
        machine.lower_priority()
        ort.set_global_thread_pool_sizes(count, 1)
        ort.set_default_logger_severity(FATAL)  # its lines would be no JSON

    starter = Thread(target=start)  # the pool's threads are as it is, and it ends
    starter.start()
    starter.join()


def reported(event: Event, model: str, version: str, error: str) -> None:
    """Say what became of a version, in the log and in the metrics."""
    metrics.loaded(event, model, version)
    record = {"model": model, "version": version} | ({"error": error} if error else {})
    log.log(logging.ERROR if error else logging.INFO, event, extra={"record": record})


def _registry(settings: Settings) -> Registry:
    return Registry(
        settings.models,
        weights_bytes=settings.weights_bytes,
        warm=True,
        pooled=True,
        provider=settings.provider,
        report=reported,
    )


def _add(
    server: grpc.aio.Server, scoring: ScoringServicer, inference: InferenceServicer, checks: health.aio.HealthServicer
) -> tuple[str, ...]:
    """Add the services, and reflection of them; returns the names of those that have a health."""
    server.add_generic_rpc_handlers([scoring.handlers(), inference.handlers()])
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = (SERVICE.full_name, INFERENCE.full_name, health.SERVICE_NAME)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    return names


def _certificates(settings: Settings) -> Certificates | None:
    """Those of TLS; None: in the clear."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _options(settings: Settings) -> list[tuple[str, int]]:
    message_bytes = settings.limits.message_bytes
    options = [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_concurrent_streams", settings.max_waiting + settings.max_streams + OTHERS),
        ("grpc.http2.max_frame_size", (1 << 24) - 1),  # large messages in fewer pieces: nobody is served between them
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),  # a client whose machine is gone says nothing
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS // 3),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a second server on this port is a mistake, and an error
    ]
    if settings.max_age:
        options.append(("grpc.max_connection_age_ms", int(settings.max_age * 1e3)))  # calls on it may end
    return options


def _bind(
    server: grpc.aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None = None
) -> str:
    """Listen; returns the address with the port that was given. Raises OSError, naming the setting."""
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        reason = str(error).partition(";")[0]  # then follows how to see gRPC's own log
        way_out = "is the port taken, or the host another machine's?"
        raise OSError(f"{setting}: cannot listen on {address}: {reason}; {way_out}") from None
    return f"{address.rpartition(':')[0]}:{port}"


def _signals() -> asyncio.Queue[None]:
    """SIGTERM, SIGINT and SIGHUP, as they come."""
    arrived: asyncio.Queue[None] = asyncio.Queue()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, arrived.put_nowait, None)
    return arrived
