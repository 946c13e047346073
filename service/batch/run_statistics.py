"""The counts and times of a run, and its summary."""

import heapq
import time
from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from service.batch.item import Scored

SLOWEST = 5
"""Number of the slowest images in the summary."""
STAGES = ("read", "decode", "compute", "write")


@dataclass
class RunStatistics:
    """The counts and times of a run; may be added to by several threads."""

    total: int
    """Number of images of the job, or of its shard."""
    kept: int = 0
    """Number of images of parts that were finished before."""
    failures: Counter[str] = field(default_factory=Counter)
    """Number of images without scores, by the kind of the error, with those of finished parts."""
    processed: int = 0
    """Number of images that this run has scored, or has failed to score."""
    pixels: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds by stage, added over images that were scored at the same time."""
    slowest: list[tuple[float, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _lock: Lock = field(default_factory=Lock)

    def add(self, scored: Scored) -> None:
        """Add an image."""
        with self._lock:
            self.processed += 1
            self.pixels += scored.times.pixels
            for stage in STAGES:
                self.seconds[stage] += getattr(scored.times, stage)
            if scored.failed:
                self.failures[str(scored.row["error_kind"])] += 1
            heapq.heappush(self.slowest, (scored.times.total, str(scored.row["path"])))
            if len(self.slowest) > SLOWEST:
                heapq.heappop(self.slowest)

    @property
    def failed(self) -> int:
        """Number of images without scores."""
        return sum(self.failures.values())

    def document(self) -> dict[str, Any]:
        """Return the summary."""
        elapsed = time.monotonic() - self.began
        return {
            "images": {"total": self.total, "kept": self.kept, "processed": self.processed, "failed": self.failed},
            "failures": dict(sorted(self.failures.items())),
            "megapixels": round(self.pixels / 1e6, 3),
            "seconds": round(elapsed, 3),
            "megapixels_per_second": round(self.pixels / 1e6 / elapsed, 3) if elapsed else 0.0,
            "seconds_by_stage": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "slowest": [{"path": path, "seconds": round(seconds, 3)} for seconds, path in sorted(self.slowest)[::-1]],
        }
