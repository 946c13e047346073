"""What a run shows while it works, and its summary.

On a terminal: a bar with the images, the megapixels, the rate and the time that is left. Elsewhere: a line from time to
time. With --json: events on standard error, a JSON object in each line, and the summary on standard output.
"""

import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Any

import rich.progress
from rich.console import Console
from rich.table import Table

from fullconv.command.progress import LINE_SECONDS
from fullconv.common.text import printable
from service.batch.item import Scored
from service.batch.worker import PartReport, SectionReport

SLOWEST = 5
"""Number of the slowest images in the summary."""
STAGES = ("read", "decode", "compute", "write")
Event = Mapping[str, Any]


@dataclass
class Tally:
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


Show = Callable[[], None]


@dataclass(frozen=True)
class Watch:
    """Counts and shows what a run does."""

    tally: Tally
    show: Show
    tell: Callable[[Event], None]
    """Takes events."""

    def image(self, scored: Scored) -> None:
        """Take an image that was scored."""
        self.tally.add(scored)
        if scored.failed:
            self.tell({"event": "failure", **{name: scored.row[name] for name in ("path", "error", "error_kind")}})
        if scored.why_whole:
            self.tell({"event": "whole", "path": scored.row["path"], "reason": scored.why_whole})
        self.show()

    def report(self, report: PartReport | SectionReport) -> None:
        """Take a part that is finished, or a section of an image."""
        event = "part" if isinstance(report, PartReport) else "section"
        facts = {each.name: getattr(report, each.name) for each in fields(report) if each.repr}
        self.tell({"event": event, **facts})


@contextmanager
def watching(tally: Tally, *, as_json: bool) -> Iterator[Watch]:
    """Yield what counts and shows a run."""
    if as_json:
        yield Watch(tally, lambda: None, _print_event)
        return
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(tally, console) as show:
            yield Watch(tally, show, _printer(console))
    else:
        yield Watch(tally, _lines(tally, console), _printer(console))


def _print_event(event: Event) -> None:
    sys.stderr.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")


def _printer(console: Console) -> Callable[[Event], None]:
    """Return what prints a line for each image without scores, above the bar."""

    def tell(event: Event) -> None:
        if event["event"] == "failure":
            name, error = str(event["path"]), str(event["error"])
            message = error if error.startswith(name) else f"{name}: {error}"
            console.print(printable(f"fullconv-batch: {message}"), markup=False, highlight=False, soft_wrap=True)

    return tell


@contextmanager
def _bar(tally: Tally, console: Console) -> Iterator[Show]:
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=tally.total, completed=tally.kept)

        def show() -> None:
            bar.update(task, completed=tally.kept + tally.processed, description=_text(tally))

        yield show


def _lines(tally: Tally, console: Console) -> Show:
    last = time.monotonic()

    def show() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_SECONDS:
            return
        last = now
        left = (now - tally.began) / tally.processed * max(0, tally.total - tally.kept - tally.processed)
        console.print(f"{_text(tally)}, {left:.0f} s left", markup=False, highlight=False, soft_wrap=True)

    return show


def _text(tally: Tally) -> str:
    """Return the counts and the rate of a run."""
    megapixels = tally.pixels / 1e6
    rate = megapixels / max(time.monotonic() - tally.began, 1e-3)
    failed = f", {tally.failed} failed" if tally.failed else ""
    done = tally.kept + tally.processed
    return f"{done} of {tally.total} images{failed}, {megapixels:.0f} megapixels, {rate:.1f} megapixels/s"


def summary_table(document: Mapping[str, Any]) -> Table:
    """Return the summary as a table for the terminal."""
    images, table = document["images"], Table.grid(padding=(0, 2))
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in document["seconds_by_stage"].items())
    rows = {
        "images": f"{images['processed']} processed now, {images['kept']} before, of {images['total']}",
        "failed": ", ".join(f"{kind} {count}" for kind, count in document["failures"].items()) or "none",
        "rate": f"{document['megapixels']:.1f} megapixels in {document['seconds']:.1f} s: "
        f"{document['megapixels_per_second']:.1f} megapixels/s",
        "seconds": f"{stages} (added over images that were scored at the same time)",
        "slowest": ", ".join(f"{printable(each['path'])} {each['seconds']:.1f} s" for each in document["slowest"]),
        "results": printable(str(document["results"])),
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table
