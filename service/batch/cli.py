"""The command `fullconv-batch`. What runs jobs is loaded when a job is planned or run, so that --help is quick."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from typing import Any, NoReturn

import typer

from fullconv import __version__
from fullconv.command.console import tolerate_encodings
from fullconv.command.usage import takes
from fullconv.common.files import OutputError
from fullconv.common.interruption import Interruption
from fullconv.common.loading import end_loading
from fullconv.common.text import printable
from fullconv.encode import score_request
from fullconv.errors import ImageError, RequestError, UnavailableError
from service.batch.line import BatchLine
from service.batch.stop import Stop, StoppedError

GRACE_SECONDS = 1.0
"""Seconds in which further signals count as the first: some senders signal a process and also its group."""
END_SECONDS = 10.0
"""Seconds after which the process ends, at the latest, if the job stops at once: reads may block for ever."""
CONTINUE = "interrupted: the same command continues the job"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
stop = Stop()


@dataclass
class _Messages:
    """How messages are printed: as text, or with --json as events, a JSON object in each line."""

    as_json: bool = False

    def print(self, text: object, event: str, **facts: int) -> None:
        """Print a message on standard error; `facts` are further entries of the event."""
        if self.as_json:
            entry = "error" if event == "error" else "reason"
            typer.echo(json.dumps({"time": round(time.time(), 3), "event": event, entry: str(text), **facts}), err=True)
        else:
            typer.echo(printable(f"fullconv-batch: {text}"), err=True)


messages = _Messages()


def main() -> None:
    """Run the command.

    While images are scored, Ctrl-C or a termination signal finishes the parts that have begun, and a second one gives
    them up. Before, it ends the command.
    """
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it logs a traceback for an answer that cannot be parsed
    tolerate_encodings()
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"fullconv-batch {__version__}")
        return
    interruption = Interruption("fullconv-batch")
    interruption.install()
    try:
        app()
    except (MemoryError, OSError) as error:
        messages.print(error if str(error) else "out of memory", "error", status=1)
        _end(1, interruption)
    except SystemExit as ended:
        _end(ended.code, interruption)


def _end(status: Any, interruption: Interruption) -> NoReturn:  # noqa: ANN401 (Python's)
    """End the process. After a signal a thread may still compute or read, for which Python's own end would wait."""
    if not stop.at_once.is_set() and not interruption.requested:
        sys.exit(status)
    if isinstance(status, str):  # the message of a signal
        messages.print(status.removeprefix("fullconv-batch: "), "error", status=1)
    _end_now(status if isinstance(status, int) else 1)


def _end_now(status: int) -> NoReturn:
    """End the process, although threads are working."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@app.command()
@takes(BatchLine)
def batch(line: BatchLine) -> None:
    """Score any number of images, in a job that can be ended and continued at any moment.

    OUT gets results/part-*.parquet, a data set with a row for each image; with --grids a file for each image in grids/;
    and job.json, which states the options, the model and the images. The same command again scores what is missing.
    An image that cannot be scored has a row with its error, and the exit status is 3.

    fullconv-batch scans --model digits -o results
    """
    from service.batch.program import Program, list_named, print_document

    messages.as_json = line.as_json
    end_loading()
    with _exit_statuses():
        name, version = line.named_version()
        score_request(name, version, line.options())  # raises for invalid options, before anything is opened
        program = Program(line, list_named(line), stop)
        document = program.plan() if line.plan else program.run(_stopped_by_signals())
    if line.as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        print_document(document, is_plan=line.plan)
    if not line.plan:
        _exit(line, document)


def _exit(line: BatchLine, document: dict[str, Any]) -> None:
    """End with the exit status that the summary of a run asks for."""
    failed, limit = document["images"]["failed"], line.failure_limit()
    if limit.exceeded(failed, document["images"]["total"]):
        _fail(f"stopped: images without scores: {failed}; --max-failures is {line.max_failures}", 3)
    if document["stopped"]:
        _fail(CONTINUE, 1)
    if failed:
        _fail(f"images without scores: {failed}; the results state the errors, and --retry-failed scores them again", 3)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the job for the duration of the block: the first gently, a later one at once."""
    began: list[float] = []
    ended = Event()

    def handle(*_: object) -> None:
        if not began:
            began.append(time.monotonic())
            stop.gently.set()
            text = "interrupted: the parts that have begun are finished; interrupt again to give them up"
            messages.print(text, "interrupted")
        elif time.monotonic() - began[0] > GRACE_SECONDS:
            for work in (stop.now, partial(_end_after_all, ended)):
                Thread(target=work, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_after_all(ended: Event) -> None:
    """End the process if the job does not end in time. The next run removes unfinished files."""
    if not ended.wait(END_SECONDS):
        messages.print(CONTINUE, "error", status=1)
        _end_now(1)


@contextmanager
def _exit_statuses() -> Iterator[None]:
    """Turn errors that concern the whole job into exit statuses."""
    from service.batch.changes import JobError
    from service.batch.lease import LeaseError
    from service.batch.stores import UnreachableError

    try:
        yield
    except UnreachableError as error:
        _fail(error, 1)
    except (ImageError, RequestError, OutputError, JobError) as error:
        _fail(error, 3)
    except (LeaseError, UnavailableError) as error:  # the same command may succeed later
        _fail(error, 1)
    except StoppedError:
        _fail(CONTINUE, 1)


def _fail(error: object, status: int) -> NoReturn:
    """Print an error, and end with this exit status."""
    messages.print(error, "error", status=status)
    raise typer.Exit(status)
