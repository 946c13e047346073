"""What a run shows while it works, and its summary on a terminal.

On a terminal: a bar with the images, the megapixels, the rate and the time that is left. Elsewhere: a line from time to
time. With --json: events on standard error, a JSON object in each line, and the summary on standard output.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import rich.progress
from rich.console import Console
from rich.table import Table

from fullconv.command.progress import LINE_SECONDS
from fullconv.common.text import counted, printable
from service.batch.item import Scored
from service.batch.run_statistics import RunStatistics
from service.batch.worker import PartReport, SectionReport

REASONS = {
    "read": "could not be read",
    "image": "cannot be scored",
    "unavailable": "got no answer",
    "bug": "failed because of a bug in fullconv (please report it)",
}
"""What happened to images without scores, by the kind of the error."""
Event = Mapping[str, Any]
Show = Callable[[], None]


@dataclass(frozen=True)
class RunDisplay:
    """Counts and shows what a run does."""

    statistics: RunStatistics
    show: Show
    emit: Callable[[Event], None]
    """Shows an event, or writes it."""

    def add_image(self, scored: Scored) -> None:
        """Take an image that was scored."""
        self.statistics.add(scored)
        if scored.failed:
            self.emit({"event": "failure", **{name: scored.row[name] for name in ("path", "error", "error_kind")}})
        if scored.why_whole:
            self.emit({"event": "whole", "path": scored.row["path"], "reason": scored.why_whole})
        self.show()

    def add_report(self, report: PartReport | SectionReport) -> None:
        """Take a part that is finished, or a section of an image."""
        event = "part" if isinstance(report, PartReport) else "section"
        facts = {each.name: getattr(report, each.name) for each in fields(report) if each.repr}
        self.emit({"event": event, **facts})


@contextmanager
def open_display(statistics: RunStatistics, *, as_json: bool) -> Iterator[RunDisplay]:
    """Yield what counts and shows a run."""
    if as_json:
        yield RunDisplay(statistics, lambda: None, _print_event)
        return
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(statistics, console) as show:
            yield RunDisplay(statistics, show, _printer(console))
    else:
        yield RunDisplay(statistics, _lines(statistics, console), _printer(console))


def announce(event: str, reason: str, *, as_json: bool) -> None:
    """Say why a run does not begin yet."""
    if as_json:
        _print_event({"event": event, "reason": reason})
    else:
        sys.stderr.write(f"fullconv-batch: {printable(reason)}\n")


def _print_event(event: Event) -> None:
    sys.stderr.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")


def _printer(console: Console) -> Callable[[Event], None]:
    """Return what prints a line for each image without scores, above the bar."""

    def emit(event: Event) -> None:
        if event["event"] == "failure":
            name, error = str(event["path"]), str(event["error"])
            message = error if error.startswith(name) else f"{name}: {error}"
            console.print(printable(f"fullconv-batch: {message}"), markup=False, highlight=False, soft_wrap=True)

    return emit


@contextmanager
def _bar(statistics: RunStatistics, console: Console) -> Iterator[Show]:
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=statistics.total, completed=statistics.kept)

        def show() -> None:
            bar.update(task, completed=statistics.kept + statistics.processed, description=_text(statistics))

        yield show


def _lines(statistics: RunStatistics, console: Console) -> Show:
    last = time.monotonic()

    def show() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_SECONDS:
            return
        last = now
        left = (
            (now - statistics.began)
            / statistics.processed
            * max(0, statistics.total - statistics.kept - statistics.processed)
        )
        console.print(f"{_text(statistics)}, {left:.0f} s left", markup=False, highlight=False, soft_wrap=True)

    return show


def _text(statistics: RunStatistics) -> str:
    """Return the counts and the rate of a run."""
    megapixels = statistics.pixels / 1e6
    rate = megapixels / max(time.monotonic() - statistics.began, 1e-3)
    failed = f", {statistics.failed} failed" if statistics.failed else ""
    done = f"{statistics.kept + statistics.processed} of {counted(statistics.total, 'image')}"
    return f"{done}{failed}, {megapixels:.0f} megapixels, {rate:.1f} megapixels/s"


def summary_table(document: Mapping[str, Any]) -> Table:
    """Return the summary as a table for the terminal."""
    images = document["images"]
    rows = {
        "images": f"{images['total']}: {images['processed']} processed now, {images['kept']} in earlier runs",
        "failed": failed_text(document["failures"]) or "none",
        **(_work(document) if images["processed"] else {}),
        "results": printable(str(document["results"])),
    }
    return table_of(rows)


def table_of(rows: Mapping[str, str]) -> Table:
    """Return a table of names and texts, in which long paths are not cut."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def failed_text(failures: Mapping[str, int]) -> str:
    """Return, for each kind of error, the number of images, the reason, and the kind as the results name it."""
    return "; ".join(
        f"{counted(count, 'image')} {REASONS.get(kind, 'failed')} ({kind})" for kind, count in failures.items()
    )


def _work(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows about the images that this run has processed."""
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in document["seconds_by_stage"].items())
    return {
        "speed": f"{document['megapixels']:.1f} megapixels in {document['seconds']:.1f} s: "
        f"{document['megapixels_per_second']:.1f} megapixels/s",
        "stages": f"{stages}, added up over all images",
        "slowest": ", ".join(f"{printable(each['path'])} {each['seconds']:.1f} s" for each in document["slowest"]),
    }
