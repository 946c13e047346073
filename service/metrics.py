"""The server's metrics for Prometheus, all named fullconv_*, and the statistics of the Open Inference Protocol."""

import time
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector

from fullconv import __version__
from service.engine.registry import Event
from service.engine.session import Session
from service.scoring.outcome import Result
from service.scoring.planned import PlannedImage

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
TILES = (1, 2, 4, 8, 16, 32, 64)
LOADED, FAILED = "loaded", "failed"


@dataclass
class ModelTimes:
    """Counts and times of the requests for one version of a model, as the Open Inference Protocol counts them."""

    images: int = 0
    batches: int = 0
    last: float = 0.0
    """When the last image was scored, in seconds since 1970."""
    stages: defaultdict[str, tuple[int, float]] = field(default_factory=lambda: defaultdict(lambda: (0, 0.0)))
    """For each stage: how often it was timed, and the sum in seconds."""

    def add(self, stage: str, seconds: float) -> None:
        """Count one image or request in a stage."""
        count, total = self.stages[stage]
        self.stages[stage] = count + 1, total + seconds


class Metrics:
    """Counters and histograms of one server, in their own registry. Several threads may use them."""

    def __init__(self) -> None:
        registry = self.collectors = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("fullconv_build", "The version of the server.", registry=registry).info({"version": __version__})
        requests = Counter(
            "fullconv_requests", "Answered requests.", ["method", "model", "version", "code"], registry=registry
        )
        request_seconds = Histogram(
            "fullconv_request_seconds",
            "Seconds from a request's arrival to its answer.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        stage_seconds = Histogram(
            "fullconv_stage_seconds",
            "Seconds of each image in each stage: queue, decode, compute (with the waits between batches), reduce.",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        per_model, per_backend = ["model", "version"], ["provider", "precision"]
        pixels = Counter("fullconv_pixels", "Pixels of the images that were scored.", per_model, registry=registry)
        tiles = Counter("fullconv_tiles", "Tiles that were run or skipped.", per_model, registry=registry)
        batch_tiles = Histogram(
            "fullconv_batch_tiles", "Number of tiles in a batch.", per_backend, buckets=TILES, registry=registry
        )
        batch_seconds = Histogram(
            "fullconv_batch_seconds", "Seconds for which a batch ran.", per_backend, buckets=SECONDS, registry=registry
        )
        self._model_loads = Counter(
            "fullconv_model_loads",
            "Versions of models that were loaded or failed.",
            [*per_model, "result"],
            registry=registry,
        )
        self._shortages = Counter(
            "fullconv_shortages",
            "Requests that met a shortage of the server: memory, disk space, file descriptors or threads.",
            ["resource"],
            registry=registry,
        )
        # looking up a child by its labels takes longer than counting
        self._requests, self._request_seconds = cache(requests.labels), cache(request_seconds.labels)
        self._stage_seconds = cache(stage_seconds.labels)
        self._pixels, self._tiles = cache(pixels.labels), cache(tiles.labels)
        self._batch_tiles, self._batch_seconds = cache(batch_tiles.labels), cache(batch_seconds.labels)
        self._times: defaultdict[tuple[str, str], ModelTimes] = defaultdict(ModelTimes)
        self._lock = Lock()

    def times(self, model: str, version: str) -> ModelTimes:
        """Return a copy of the counts of a version so far."""
        with self._lock:
            return deepcopy(self._times.get((model, version), ModelTimes()))

    def observe_request(self, record: dict[str, Any], seconds: float) -> None:
        """Count a request by its line of the log. A model without a version may not exist, and is no label."""
        version = record.get("version", "")
        model = record["model"] if version else ""
        self._requests(record["method"], model, version, record["code"]).inc()
        self._request_seconds(record["method"]).observe(seconds)
        if version and record["code"] != "OK":
            with self._lock:
                self._times[model, version].add("fail", seconds)

    def observe_shortage(self, resource: str) -> None:
        """Count a request that met a shortage."""
        self._shortages.labels(resource).inc()

    def observe_batch(self, session: Session, tiles: int, seconds: float) -> None:
        """Count a batch that ran."""
        with self._lock:
            self._times[session.model.name, session.model.version].batches += 1
        backend = session.backend
        self._batch_tiles(backend.provider, backend.precision).observe(tiles)
        self._batch_seconds(backend.provider, backend.precision).observe(seconds)

    def observe_load(self, event: Event, model: str, version: str) -> None:
        """Count a version that was loaded or failed; other events are not counted."""
        if event in ("loaded", "not loaded"):
            self._model_loads.labels(model, version, LOADED if event == "loaded" else FAILED).inc()

    def observe_image(self, planned: PlannedImage, result: Result) -> None:
        """Count an image that was scored."""
        model, version, timing = planned.model.name, planned.model.version, result.timing
        for stage in ("queue", "decode", "compute", "reduce"):
            self._stage_seconds(model, stage).observe(getattr(timing, stage))
        with self._lock:
            times = self._times[model, version]
            times.images, times.last = times.images + 1, time.time()
            for stage, seconds in (
                ("success", timing.total),
                ("queue", timing.queue),
                ("compute_input", timing.decode),
                ("compute_infer", timing.compute),
                ("compute_output", timing.reduce),
            ):
                times.add(stage, seconds)
        self._pixels(model, version).inc(planned.picture.width * planned.picture.height)
        self._tiles(model, version).inc(planned.plan.tile_count)
