"""The composition root: makes the parts of the server, connects them, runs them until a signal."""

import asyncio
import logging
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health

from fullconv import __version__
from service import machine
from service.dispatch.admission import Admission
from service.dispatch.dispatcher import Dispatcher
from service.engine.checks import Checks
from service.engine.executables import Threads
from service.engine.loader import LoadOptions
from service.engine.onnx_runtime import silence
from service.engine.registry import Event, Registry
from service.engine.run_sizes import GPU_RUNS
from service.engine.scheduler import Scheduler
from service.engine.thread_count import thread_count
from service.images.allowed_directory import AllowedDirectory
from service.log import log
from service.metrics import Metrics
from service.rpc import inference, servicer
from service.rpc.access import Access, Tokens
from service.rpc.calls import Calls
from service.rpc.inference import InferenceServicer
from service.rpc.public import PublicServices
from service.rpc.servicer import ScoringServicer
from service.rpc.spool import Spool
from service.rpc.traces import Traced
from service.scoring.scorer import Scorer
from service.server.admin import administered
from service.server.certificates import Certificates
from service.server.exporter import exported
from service.server.gauges import add_gauges
from service.server.health import Health
from service.server.listening import bind, server_options
from service.server.memory import TRIM_SECONDS, MemoryTrimmer
from service.server.periodic import repeated
from service.server.shutdown import Signals
from service.setting_types import is_loopback
from service.settings import Settings

SWITCH_SECONDS = 0.001
"""Time for which a thread may hold the interpreter while another thread waits for it. Python's default, 5 ms, would be
a wait at each of the several changes of threads of a small request while other threads open and plan large images."""
HEALTH_WATCH_SECONDS = 0.5
"""Seconds for which open health watches may continue after the last request is answered."""
FILES_SECONDS = 5.0
"""Seconds between two looks at the files of tokens and certificates."""


@dataclass(frozen=True)
class Parts:
    """The parts of a server that outlive its calls."""

    threads: int
    """Number of threads in which networks compute."""
    registry: Registry
    scheduler: Scheduler
    metrics: Metrics
    admission: Admission
    calls: Calls
    dispatcher: Dispatcher
    traces: Traced | None
    certificates: Certificates | None
    reloadable: tuple[Tokens | Certificates, ...]
    """Objects whose files are read again when they change."""


async def serve(settings: Settings, signals: Signals) -> None:
    """Serve until a signal, answer what was admitted, and stop.

    Raises OSError if an address cannot be bound or a file cannot be used.
    """
    parts = _parts(settings)
    state = Health(parts.registry)
    await state.set_starting()
    server = grpc.aio.server(options=server_options(settings))
    names = _add_services(server, parts, state, settings)
    async with AsyncExitStack() as running:
        credentials = parts.certificates.credentials() if parts.certificates else None
        addresses = {"address": bind(server, "listen", settings.listen, credentials)}
        signals.install()
        optional = "metrics" not in settings.model_fields_set
        export = exported(settings.metrics, parts.metrics.collectors, state.is_serving, optional=optional)
        addresses |= await running.enter_async_context(export)
        if settings.viewer:
            addresses["viewer"] = await running.enter_async_context(_viewer(settings.viewer, parts, settings))
        if settings.admin:
            admin = InferenceServicer(parts.dispatcher, parts.calls, parts.metrics, models_changed=state.show_models)
            addresses["admin"] = await running.enter_async_context(administered(settings.admin, admin))
        for files in parts.reloadable:
            await running.enter_async_context(repeated(partial(asyncio.to_thread, files.refresh), FILES_SECONDS))
        trimmer = MemoryTrimmer(parts.registry, parts.calls)
        await running.enter_async_context(repeated(trimmer.trim_if_idle, TRIM_SECONDS))
        await server.start()
        await state.set_serving(names)
        machine.freeze_heap()
        log.info(
            "listening",
            extra={
                "record": addresses
                | {"models": str(settings.models), "threads": parts.threads, "version": __version__},
            },
        )
        if not parts.registry.models():
            expected = f"{settings.models}/NAME/VERSION/model.onnx"
            log.warning("no models", extra={"record": {"models": str(settings.models), "expected": expected}})
        await running.enter_async_context(repeated(state.look, settings.poll))
        await signals.first()
        log.info("draining")
        await state.drain()
        await parts.calls.drain()
        await server.stop(HEALTH_WATCH_SECONDS)
        if parts.traces:
            await asyncio.to_thread(parts.traces.close)
    parts.scheduler.close()
    log.info("stopped")


def _parts(settings: Settings) -> Parts:
    """Make the parts, the process-wide settings first; raises OSError for files that cannot be used."""
    limits, metrics = settings.limits, Metrics()
    sys.setswitchinterval(SWITCH_SECONDS)
    machine.configure_malloc(2 * limits.message_bytes)
    silence()
    threads = settings.threads or thread_count()
    checks = Checks(settings.models, seconds=settings.check_seconds, memory_bytes=settings.check_bytes)
    registry = Registry(
        settings.models,
        weights_bytes=settings.weights_bytes,
        warm=True,
        options=LoadOptions(
            Threads(threads),
            tuple(settings.backend.backends()),
            measures_runs=True,
            measures_singles=settings.slots is None,
            checks=checks,
        ),
        report=partial(_report, metrics),
    )
    tokens = Tokens(settings.tokens) if settings.tokens else None
    certificates = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    scheduler = Scheduler(
        slots=settings.slots,
        concurrent=max(threads, GPU_RUNS),
        batching=settings.batching,
        observe=metrics.observe_batch,
        prepare=machine.lower_priority,
    )
    traces, admission = Traced() if settings.traces else None, Admission(limits)
    reloadable = tuple(files for files in (tokens, certificates) if files)
    calls = Calls(Access(tokens), metrics, limits, traces)
    gauges = partial(add_gauges, metrics.collectors, admission, scheduler, registry)
    gauges(lambda: sum(files.stale for files in reloadable), calls.receiver.places)
    return Parts(
        threads=threads,
        registry=registry,
        scheduler=scheduler,
        metrics=metrics,
        admission=admission,
        calls=calls,
        dispatcher=Dispatcher(Scorer(registry, limits, settings.tuning), scheduler, admission, metrics),
        traces=traces,
        certificates=certificates,
        reloadable=reloadable,
    )


def _add_services(server: grpc.aio.Server, parts: Parts, state: Health, settings: Settings) -> tuple[str, ...]:
    """Add the services and their reflection; returns the names of the services that have a health."""
    scoring = _scoring(parts, settings)
    other_clients = InferenceServicer(parts.dispatcher, parts.calls, parts.metrics)
    names = (servicer.SERVICE.full_name, inference.SERVICE.full_name, health.SERVICE_NAME)
    public = PublicServices(settings.limits)
    server.add_generic_rpc_handlers(
        [scoring.handlers(), other_clients.handlers(), public.health(state.servicer), public.reflection(names)]
    )
    return names


def _scoring(parts: Parts, settings: Settings) -> ScoringServicer:
    spool, allowed = Spool(settings.spool, parts.admission), AllowedDirectory(settings.images)
    return ScoringServicer(parts.dispatcher, parts.calls, spool, allowed)


def _viewer(address: str, parts: Parts, settings: Settings) -> AbstractAsyncContextManager[str]:
    """Return the HTTP port; raises ImportError if the extra 'viewer' is not installed."""
    try:
        from service.rest.application import application  # noqa: PLC0415 (an extra)
        from service.server.viewer import viewer  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f"viewer: expected the extra 'viewer', got {error}; pip install starlette uvicorn") from None
    other_clients = InferenceServicer(parts.dispatcher, parts.calls, parts.metrics)
    scoring, is_local = _scoring(parts, settings), is_loopback(address)
    app = application(other_clients, scoring, parts.calls, parts.admission, settings.limits, is_local=is_local)
    return viewer(address, app, parts.certificates, settings.limits.idle_seconds, parts.calls.draining.is_set)


def _report(metrics: Metrics, event: Event, model: str, version: str, error: str) -> None:
    """Log and count what happened to a version."""
    metrics.observe_load(event, model, version)
    record = {"model": model, "version": version} | ({"error": error} if error else {})
    log.log(logging.ERROR if error else logging.INFO, event, extra={"record": record})
