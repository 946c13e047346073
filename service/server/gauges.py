"""Gauges of waiting requests and tiles, of limits, and of models and files that cannot be used."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from service.dispatch.admission import Admission
from service.dispatch.places import Places
from service.engine.registry import Registry
from service.engine.scheduler import Scheduler


def add_gauges(
    metrics: CollectorRegistry,
    admission: Admission,
    scheduler: Scheduler,
    models: Registry,
    stale_files: Callable[[], int],
    places: Places,
) -> None:
    """Add the gauges to a registry of metrics. They are read whenever the metrics are exported."""
    load, limits = admission.load, admission.limits
    for name, text, value in (
        ("queue_requests", "Requests that are admitted and not yet answered.", lambda: load.requests),
        ("queue_requests_limit", "Largest allowed number of these requests.", lambda: limits.waiting),
        ("streams", "Open calls of ScoreLarge, ScoreMany and ModelStreamInfer.", lambda: load.streams),
        ("streams_limit", "Largest allowed number of these calls.", lambda: limits.streams),
        ("queue_bytes", "Bytes of the messages of admitted requests.", lambda: load.message_bytes),
        ("queue_bytes_limit", "Largest allowed number of these bytes.", lambda: limits.waiting_bytes),
        ("queue_seconds", "Predicted seconds of compute of admitted requests.", lambda: load.seconds),
        ("queue_seconds_limit", "Largest allowed number of these seconds.", lambda: limits.waiting_seconds),
        ("queue_tiles", "Tiles that wait for a slot.", lambda: scheduler.waiting),
        ("memory_bytes", "Planned bytes of pixels and scores of admitted requests.", lambda: load.held_bytes),
        ("memory_budget_bytes", "Largest allowed number of these bytes.", lambda: limits.held_bytes),
        ("receiving_messages", "Messages that are being received.", lambda: places.held),
        ("receiving_messages_limit", "Largest allowed number of these messages.", lambda: places.count),
        ("unreceived_messages", "Messages that wait to be received.", lambda: places.waiting),
        ("spool_bytes", "Bytes of files in the spool.", lambda: load.spool_bytes),
        ("spool_bytes_limit", "Largest allowed number of these bytes.", lambda: limits.spool_bytes),
        ("failing_versions", "Versions of models whose files cannot be served.", lambda: models.failing),
        (
            "stale_files",
            "Files of tokens or certificates that have changed and cannot be used; the previous contents are kept.",
            stale_files,
        ),
    ):  # fmt: skip
        Gauge(f"fullconv_{name}", text, registry=metrics).set_function(value)
