"""The command `fullconv-batch`."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

import typer
from rich.console import Console

from fullconv import __version__
from fullconv.base import BaseScorer
from fullconv.command.console import tolerate_encodings
from fullconv.command.usage import takes
from fullconv.common.files import OutputError
from fullconv.common.interruption import Interruption
from fullconv.common.text import printable
from fullconv.encode import score_request
from fullconv.errors import ImageError, RequestError, UnavailableError
from fullconv.remote.client import Client
from fullconv.remote.connection import addresses
from service.batch.display import summary_table
from service.batch.engines import local_limits, local_scorer, run_here, server_limits
from service.batch.job import JobError
from service.batch.lease import LeaseError
from service.batch.line import BatchLine
from service.batch.listing import Listing, list_images, list_listed
from service.batch.node_worker import NodeConfig
from service.batch.planning import plan_job, plan_table
from service.batch.ray_engine import ray_engine
from service.batch.run import Engine, Run
from service.batch.stop import Stop, StoppedError
from service.batch.stores import Store, UnreachableError, open_store
from service.batch.work import Work
from service.batch.worker import WorkerLimits, make_worker, records_of

GRACE_SECONDS = 1.0
"""Seconds in which further signals count as the first: some senders signal a process and also its group."""
MODELS = Path("models")
"""The directory of models, if the line names none."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
stop = Stop()


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
    Interruption("fullconv-batch").install()
    try:
        app()
    except (MemoryError, OSError) as error:
        _print_error(error if str(error) else "out of memory")
        _end(1)
    except SystemExit as ended:
        _end(ended.code)


def _end(status: Any) -> NoReturn:  # noqa: ANN401 (Python's)
    """End the process. After a stop at once a network may still be running, for which Python's own end would wait."""
    if stop.at_once.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)  # a text if a further signal has ended the command
    sys.exit(status)


@app.command()
@takes(BatchLine)
def batch(line: BatchLine) -> None:
    """Score any number of images, in a job that can be ended and continued at any moment.

    OUT gets results/part-*.parquet, a data set with a row for each image; with --grids a file for each image in grids/;
    and job.json, which states the options, the model and the images. The same command again scores what is missing.
    An image that cannot be scored has a row with its error, and the exit status is 3.

    fullconv-batch scans --model digits -o results
    """
    with _exit_statuses():
        name, version = line.named_version()
        score_request(name, version, line.options())  # raises for invalid options, before anything is opened
        images = _listed(line)
        document = _planned(line, images) if line.plan else _run(line, images)
    if line.as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        Console(highlight=False, markup=False).print((plan_table if line.plan else summary_table)(document))
    if not line.plan:
        _exit(line, document)


def _listed(line: BatchLine) -> Listing:
    if line.list_file is not None:
        return list_listed(line.list_file)
    images = list_images(line.inputs or [], include=line.include or [], out=line.out)
    if images.skipped and not line.as_json:
        found = images.table.num_rows
        typer.echo(f"images: {found}; skipped: {images.skipped} other files and links to folders", err=True)
    return images


def _planned(line: BatchLine, images: Listing) -> dict[str, Any]:
    scorer, limits = _scorer(line)
    work = _work(line, scorer)
    return plan_job(scorer, work, images, limits.threads, stop).document()


def _run(line: BatchLine, images: Listing) -> dict[str, Any]:
    """Score the images with the engine that the line names; returns the summary."""
    scorer, limits = _scorer(line)
    work, model = _work(line, scorer), scorer.model(*line.named_version())
    store = open_store(work.out, stop.pause)
    run = Run(
        store, work, model.weights_sha256, line.shard_of(), line.update, line.retry_failed, line.failure_limit(),
        line.as_json, stop,
    )  # fmt: skip
    engine = _engine(line, work, scorer, limits, store, images)
    with _stopped_by_signals():
        return run.run(images, engine)


def _engine(
    line: BatchLine, work: Work, scorer: BaseScorer, limits: WorkerLimits, store: Store, images: Listing
) -> Engine:
    carried = images.carried.schema
    if line.engine_name == "ray":
        models = str((line.models or MODELS).absolute())
        model = scorer.model(work.model, work.version)
        records_of(work, model, carried)  # raises for columns that the results cannot carry
        config = NodeConfig(work, models, model.weights_sha256, carried, retry_failed=line.retry_failed)
        return ray_engine(line.address or "auto", config, stop)
    worker = make_worker(work, scorer, store, carried, stop, limits)
    return partial(run_here, worker, stop=stop, retry_failed=line.retry_failed)


def _scorer(line: BatchLine) -> tuple[BaseScorer, WorkerLimits]:
    """Return what scores the images, and what it may use of this machine."""
    if line.server is not None:
        return Client(line.server, security=line.security()), server_limits(len(addresses(line.server)))
    return local_scorer(line.models or MODELS, line.backend), local_limits()


def _work(line: BatchLine, scorer: BaseScorer) -> Work:
    """Return how images are scored, with the version that the model has now."""
    name, version = line.named_version()
    return line.work(name, scorer.model(name, version).version)


def _exit(line: BatchLine, document: dict[str, Any]) -> None:
    """End with the exit status that the summary of a run asks for."""
    failed, limit = document["images"]["failed"], line.failure_limit()
    if limit.exceeded(failed, document["images"]["total"]):
        _fail(f"stopped: images without scores: {failed}; --max-failures is {line.max_failures}", 3)
    if document["stopped"]:
        _fail("interrupted: the same command continues the job", 1)
    if failed:
        _fail(f"images without scores: {failed}; the results state the errors, and --retry-failed scores them again", 3)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the job for the duration of the block: the first gently, a later one at once."""
    began: list[float] = []

    def handle(*_: object) -> None:
        if not began:
            began.append(time.monotonic())
            stop.gently.set()
            _print_error("interrupted: the parts that have begun are finished; interrupt again to give them up")
        elif time.monotonic() - began[0] > GRACE_SECONDS:
            Thread(target=stop.now).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _exit_statuses() -> Iterator[None]:
    """Turn errors that concern the whole job into exit statuses."""
    try:
        yield
    except UnreachableError as error:
        _fail(error, 1)
    except (ImageError, RequestError, OutputError, JobError) as error:
        _fail(error, 3)
    except (LeaseError, UnavailableError) as error:  # the same command may succeed later
        _fail(error, 1)
    except StoppedError:
        _fail("interrupted: the same command continues the job", 1)


def _fail(error: object, status: int) -> NoReturn:
    """Print an error, and end with this exit status."""
    _print_error(error)
    raise typer.Exit(status)


def _print_error(error: object) -> None:
    typer.echo(printable(f"fullconv-batch: {error}"), err=True)
