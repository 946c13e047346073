"""What the server counts and times, for Prometheus; names begin with fullconv_."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from fullconv import __version__
from fullconv.protos import scoring_pb2
from service.admission import Admission
from service.engine.registry import Event, Registry
from service.engine.scheduler import Scheduler
from service.engine.session import Session

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
TILES = (1, 2, 4, 8, 16, 32, 64)

REGISTRY = CollectorRegistry()
"""This server's own; a process that imports the service adds nothing to its own metrics."""
ProcessCollector(registry=REGISTRY)
Info("fullconv_build", "What runs.", registry=REGISTRY).info({"version": __version__})

REQUESTS = Counter("fullconv_requests", "Requests answered.", ["method", "model", "version", "code"], registry=REGISTRY)
REQUEST_SECONDS = Histogram(
    "fullconv_request_seconds",
    "From a request's arrival to its answer.",
    ["method"],
    buckets=SECONDS,
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "fullconv_stage_seconds",
    "Of each image: queue, decode, compute (further turns included), reduce.",
    ["model", "stage"],
    buckets=SECONDS,
    registry=REGISTRY,
)
PIXELS = Counter("fullconv_pixels", "Pixels of the images that were scored.", ["model", "version"], registry=REGISTRY)
TILES_DONE = Counter("fullconv_tiles", "Tiles that were run or left out.", ["model", "version"], registry=REGISTRY)
BATCH_TILES = Histogram("fullconv_batch_tiles", "Tiles that ran together.", buckets=TILES, registry=REGISTRY)
BATCH_SECONDS = Histogram("fullconv_batch_seconds", "A batch's run.", buckets=SECONDS, registry=REGISTRY)
MODEL_LOADS = Counter(
    "fullconv_model_loads", "Versions that were loaded, or failed.", ["model", "version", "result"], registry=REGISTRY
)


def answered(record: dict[str, Any], seconds: float) -> None:
    """Count a request by its line of the log; a model that may not exist is no label."""
    version = record.get("version", "")
    model = record["model"] if version else ""
    REQUESTS.labels(record["method"], model, version, record["code"]).inc()
    REQUEST_SECONDS.labels(record["method"]).observe(seconds)
    if version and record["code"] != "OK":
        with _lock:
            _times[model, version].add("fail", seconds)


def batch(session: Session, tiles: int, seconds: float) -> None:
    """Count a batch that ran."""
    with _lock:
        _times[session.model.name, session.model.version].batches += 1
    BATCH_TILES.observe(tiles)
    BATCH_SECONDS.observe(seconds)


def loaded(event: Event, model: str, version: str) -> None:
    """Count a version that was loaded, or failed."""
    if event in ("loaded", "not loaded"):
        MODEL_LOADS.labels(model, version, "loaded" if event == "loaded" else "failed").inc()


@dataclass
class Times:
    """What was asked of one version of a model, as the Open Inference Protocol counts it."""

    images: int = 0
    batches: int = 0
    last: float = 0.0
    """Seconds since 1970."""
    stages: defaultdict[str, tuple[int, float]] = field(default_factory=lambda: defaultdict(lambda: (0, 0.0)))
    """How often, and seconds in all."""

    def add(self, stage: str, seconds: float) -> None:
        """Count one."""
        count, total = self.stages[stage]
        self.stages[stage] = count + 1, total + seconds


_times: defaultdict[tuple[str, str], Times] = defaultdict(Times)
_lock = Lock()
"""Of all of them, which several threads count."""


def times(model: str, version: str) -> Times:
    """What was asked of a version so far."""
    return _times[model, version]


def scored(response: scoring_pb2.ScoreResponse) -> None:
    """Count an image that was scored."""
    model, version, timing = response.model, response.version, response.timing
    for stage in ("queue", "decode", "compute", "reduce"):
        STAGE_SECONDS.labels(model, stage).observe(getattr(timing, f"{stage}_ms") / 1e3)
    with _lock:
        own = _times[model, version]
        own.images, own.last = own.images + 1, time.time()
        for stage, milliseconds in (
            ("success", timing.total_ms),
            ("queue", timing.queue_ms),
            ("compute_input", timing.decode_ms),
            ("compute_infer", timing.compute_ms),
            ("compute_output", timing.reduce_ms),
        ):
            own.add(stage, milliseconds / 1e3)
    PIXELS.labels(model, version).inc(response.image.width * response.image.height)
    TILES_DONE.labels(model, version).inc(sum(view.tiles for view in response.plan.views))


def watch(admission: Admission, scheduler: Scheduler, registry: Registry, stale: Callable[[], int]) -> None:
    """Show what is waiting now, and the limits that it has; what cannot be served, and so many files that are stale."""
    load, limits = admission.load, admission.limits
    for name, text, value in (
        ("queue_requests", "Requests admitted and not answered.", lambda: load.requests),
        ("queue_requests_limit", "The most of them.", lambda: limits.waiting),
        ("streams", "Calls of ScoreLarge, ScoreMany and ModelStreamInfer that are open.", lambda: load.streams),
        ("streams_limit", "The most of them.", lambda: limits.streams),
        ("queue_bytes", "Their messages.", lambda: load.message_bytes),
        ("queue_bytes_limit", "The most of them.", lambda: limits.waiting_bytes),
        ("queue_seconds", "Their compute, as predicted when they came.", lambda: load.seconds),
        ("queue_seconds_limit", "The most of it.", lambda: limits.waiting_seconds),
        ("queue_tiles", "Tiles that wait for a slot.", lambda: scheduler.waiting),
        ("memory_bytes", "Pixels and scores that they hold, as planned.", lambda: load.held_bytes),
        ("memory_budget_bytes", "The most of them.", lambda: limits.held_bytes),
        ("failing_versions", "Versions of models whose files cannot be served.", lambda: registry.failing),
        (
            "stale_files",
            "Files of tokens or certificates that have changed and cannot be used: those before stay.",
            stale,
        ),
    ):
        Gauge(f"fullconv_{name}", text, registry=REGISTRY).set_function(value)
