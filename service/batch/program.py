"""What the command `fullconv-batch` does: it lists the images, and plans or runs the job."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from fullconv.base import BaseScorer
from fullconv.common.console import result_console
from fullconv.remote.addresses import addresses
from fullconv.remote.client import Client
from service.batch.display import summary_table
from service.batch.engines import local_limits, local_scorer, run_here, server_limits
from service.batch.line import BatchLine
from service.batch.listing import Listing, list_images, list_listed
from service.batch.node_worker import NodeConfig
from service.batch.planning import plan_job, plan_table
from service.batch.ray_engine import ray_engine
from service.batch.run import Engine, Run
from service.batch.stop import Stop
from service.batch.stores import Store, open_store
from service.batch.urls import is_url
from service.batch.work import Work
from service.batch.worker import WorkerLimits, make_worker, records_of

MODELS = Path("models")
"""The directory of models, if the line names none."""


def list_named(line: BatchLine) -> Listing:
    """List the images that the line names; raises ImageError, RequestError."""
    if line.list_file is not None:
        return list_listed(line.list_file)
    images = list_images(line.inputs or [], include=line.include or [], out=line.out)
    if images.skipped and not line.as_json:
        found = images.table.num_rows
        typer.echo(f"images: {found}; skipped: {images.skipped} (other files and links to folders)", err=True)
    return images


@dataclass(frozen=True)
class Program:
    """The job that a command line describes."""

    line: BatchLine
    images: Listing
    stop: Stop
    """Says whether the job stops."""

    def plan(self) -> dict[str, Any]:
        """Return the plan of the job."""
        scorer, limits = self._scorer()
        return plan_job(scorer, self._work(scorer), self.images, limits.threads, self.stop).document()

    def run(self, running: AbstractContextManager[None]) -> dict[str, Any]:
        """Score the images with the engine that the line names; returns the summary.

        The context `running` is entered when everything is ready to score.
        """
        line = self.line
        scorer, limits = self._scorer()
        work, model = self._work(scorer), scorer.model(*line.named_version())
        store = open_store(work.out, self.stop.pause)
        run = Run(
            store, work, model.weights_sha256, line.shard_of(), line.update, line.retry_failed, line.failure_limit(),
            line.as_json, self.stop,
        )  # fmt: skip
        engine = self._engine(work, scorer, limits, store)
        with running:
            return run.run(self.images, engine)

    def _engine(self, work: Work, scorer: BaseScorer, limits: WorkerLimits, store: Store) -> Engine:
        line, carried = self.line, self.images.carried.schema
        if line.engine_name == "ray":
            models = str((line.models or MODELS).absolute())
            model = scorer.model(work.model, work.version)
            records_of(work, model, carried)  # raises for columns that the results cannot carry
            config = NodeConfig(
                work, models, model.weights_sha256, carried, remote=self._is_remote, retry_failed=line.retry_failed
            )
            return ray_engine(line.address or "auto", config, self.stop)
        worker = make_worker(work, scorer, store, carried, self.stop, limits)
        return partial(run_here, worker, stop=self.stop, retry_failed=line.retry_failed)

    def _scorer(self) -> tuple[BaseScorer, WorkerLimits]:
        """Return what scores the images, and what it may use of this machine."""
        line = self.line
        if line.server is not None:
            return Client(line.server, security=line.security()), server_limits(len(addresses(line.server)))
        return local_scorer(line.models or MODELS, line.backend, line.tile_mib), local_limits(remote=self._is_remote)

    @property
    def _is_remote(self) -> bool:
        """Whether images or results are in a store."""
        return is_url(self.line.out or "") or self.images.has_urls

    def _work(self, scorer: BaseScorer) -> Work:
        """Return how images are scored, with the version that the model has now."""
        name, version = self.line.named_version()
        return self.line.work(name, scorer.model(name, version).version)


def print_document(document: dict[str, Any], *, is_plan: bool) -> None:
    """Print a plan or a summary as a table."""
    result_console(markup=False).print((plan_table if is_plan else summary_table)(document))
