"""The plan of a job: the cost of its images by the headers of their files, and the predicted time.

The rate of the network is measured: images of the job are scored for some seconds, and their scores dropped.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from fullconv.answer import Answer
from fullconv.base import BaseScorer
from fullconv.errors import ImageError, UnavailableError
from fullconv.options import Options
from service.batch.display import failed_text, table_of
from service.batch.item import kind_of
from service.batch.listing import Listing
from service.batch.reading import Copies, read_image
from service.batch.stop import Stop
from service.batch.urls import is_url
from service.batch.work import Work

PLAN_BATCH = 1024
"""Number of images that are submitted for planning together."""
SAMPLE_SECONDS = 5.0
"""Seconds in which further images are scored to measure the rate."""


@dataclass
class JobPlan:
    """The cost of a job's images."""

    images: int = 0
    bytes: int = 0
    """Bytes of their files."""
    pixels: int = 0
    windows: int = 0
    multiply_adds: float = 0.0
    decode_seconds: float = 0.0
    """Predicted seconds of one CPU."""
    memory_bytes: float = 0.0
    """Memory of the image that needs most."""
    failures: Counter[str] = field(default_factory=Counter)
    """Number of images that cannot be planned, by the kind of the error."""
    rate: float | None = None
    """Multiply-adds per second of this machine, or of the servers, with what is needed around them; None: not known."""

    def add(self, answer: Answer) -> None:
        """Add the plan of an image."""
        rows, cols, _ = answer.header.shape
        self.pixels += answer.image.width * answer.image.height
        self.windows += rows * cols
        self.multiply_adds += answer.plan.multiply_adds
        self.decode_seconds += answer.plan.decode_seconds
        self.memory_bytes = max(self.memory_bytes, answer.plan.bytes)

    def document(self) -> dict[str, Any]:
        """Return what `--plan --json` prints."""
        return {
            "images": self.images,
            "failures": dict(sorted(self.failures.items())),
            "bytes": self.bytes,
            "megapixels": round(self.pixels / 1e6, 3),
            "windows": self.windows,
            "multiply_adds": self.multiply_adds,
            "decode_seconds": round(self.decode_seconds, 3),
            "memory_bytes": self.memory_bytes,
            "multiply_adds_per_second": self.rate,
            "predicted_seconds": round(self.multiply_adds / self.rate, 3) if self.rate else None,
        }


def plan_job(scorer: BaseScorer, work: Work, images: Listing, threads: int, stop: Stop) -> JobPlan:
    """Plan every image of a job, and score some of them to measure the rate; raises RequestError."""
    plan = JobPlan(images.table.num_rows)
    plan.bytes = sum(size or 0 for size in images.table["bytes"].to_pylist())
    planner = _Planner(scorer, work, Copies(stop))
    locations = planner.locations(images)
    with ThreadPoolExecutor(threads) as pool:
        while some := [*islice(locations, PLAN_BATCH)]:
            for result in pool.map(planner.plan, some):
                if isinstance(result, Answer):
                    plan.add(result)
                else:
                    plan.failures[result] += 1
    plan.rate = planner.measured_rate(images, threads)
    return plan


@dataclass(frozen=True)
class _Planner:
    """Plans images one by one."""

    scorer: BaseScorer
    work: Work
    copies: Copies

    def locations(self, images: Listing) -> Iterator[tuple[str, int | None]]:
        """Yield the path or URL of every image, and the size of its file."""
        for path, size in zip(images.paths, images.table["bytes"].to_pylist(), strict=True):
            raw = images.raw.get(path, path)
            yield raw if is_url(raw) else str(Path(self.work.folder) / raw), size

    def plan(self, image: tuple[str, int | None]) -> Answer | str:
        """Return the plan of an image, or the kind of its error."""
        self.copies.stop.check()
        try:
            with read_image(*image, self.copies) as read:
                return self.scorer.plan(read.image, model=self.work.model, version=self.work.version, **self._options)
        except (ImageError, UnavailableError) as error:
            return kind_of(error)

    @property
    def _options(self) -> Options:
        """The options without a mask, which would have to be decoded: the plan counts all windows."""
        return self.work.options

    def measured_rate(self, images: Listing, threads: int) -> float | None:
        """Score images for some seconds; returns the multiply-adds per second, None if no image can be scored."""
        done, began, locations = 0.0, time.monotonic(), self.locations(images)
        with ThreadPoolExecutor(threads) as pool:
            while time.monotonic() - began < SAMPLE_SECONDS and (some := [*islice(locations, threads)]):
                done += sum(pool.map(self._multiply_adds, some))
        return done / (time.monotonic() - began) if done else None

    def _multiply_adds(self, image: tuple[str, int | None]) -> float:
        """Score an image, and drop its scores; returns its multiply-adds, 0 if it cannot be scored."""
        self.copies.stop.check()
        options: Options = {**self._options, "grid": False}
        try:
            with read_image(*image, self.copies) as read:
                answer = self.scorer.score(read.image, model=self.work.model, version=self.work.version, **options)
        except (ImageError, UnavailableError):
            return 0.0
        return answer.plan.multiply_adds


def plan_table(document: Mapping[str, Any]) -> Table:
    """Return the plan as a table for the terminal."""
    seconds = document["predicted_seconds"]
    rows = {
        "images": f"{document['images']}",
        "failed": failed_text(document["failures"]) or "none",
        "files": f"{document['bytes'] / 1e6:.1f} MB, {document['megapixels']:.1f} megapixels",
        "windows": f"{document['windows']}",
        "compute": f"{document['multiply_adds'] / 1e12:.3f} T multiply-adds",
        "decode": f"{document['decode_seconds']:.1f} s of one CPU",
        "memory": f"{document['memory_bytes'] / 1e6:.0f} MB for the image that needs most",
        "time": "not known: no image can be scored" if seconds is None else f"about {seconds:.1f} s here",
    }
    return table_of(rows)
