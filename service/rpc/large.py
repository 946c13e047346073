"""ScoreLarge: one image in parts, of which the server holds no more than it scores.

start → the plan → rows in, rows out → the summary
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from fullconv.protos import scoring_pb2
from service.admission import Admission, Claim
from service.engine.scheduler import Flow
from service.errors import BusyError, LimitError, OptionError
from service.grid import GridRows
from service.images.encoded import open_file
from service.images.picture import Picture
from service.options import resolve, selection
from service.rpc.calls import Call
from service.rpc.feed import Feed, Requests, Send, parts, streamed
from service.rpc.notices import note
from service.rpc.spool import Spool
from service.rpc.timing import timed
from service.rpc.workers import Workers
from service.run import Run
from service.scoring import MIB, Scorer, little

Part = scoring_pb2.ScoreLargeResponse

PROGRESS_SECONDS, MEMORY_SECONDS = 0.2, 0.1
PLANS = 2
"""Threads for requests that ask for the plan alone, which may have to read a whole mask."""
ROWS_BYTES = 1 << 20
"""Of the grid's rows in one message, if a row is not more by itself: what any client takes unasked."""


class ScoreLarge:
    """Scores a few images at once, in threads of its own; others wait, first come, first served.

    A model that must be loaded first is loaded by other threads: a slow load keeps no image of another model waiting.
    """

    def __init__(
        self, scorer: Scorer, admission: Admission, spool: Spool, *, workers: Workers, quick: Workers, loading: Workers
    ) -> None:
        self._scorer, self._admission, self._spool = scorer, admission, spool
        self._workers, self._quick, self._loading = workers, quick, loading
        self._planners = Workers(PLANS, "plan")

    async def answer(
        self, start: scoring_pb2.LargeImage, requests: Requests, send: Send, call: Call, claim: Claim, job: Flow
    ) -> None:
        """Answer one call, whose first part was `start`."""
        request = scoring_pb2.ScoreRequest(model=start.model, version=start.version, options=start.options)
        idle = self._scorer.limits.idle_seconds
        call.record |= {"model": start.model, "bytes": claim.message_bytes}
        image = _Image(self._scorer, request, Feed(requests, send, idle), call, partial(self._admit, claim))
        all_strides = bool(request.options.stride)
        if not self._scorer.registry.is_loaded(request.model, request.version, all_strides=all_strides):
            await self._loading.run(lambda _: self._scorer.load(request), job)
        await self._quick.run(lambda _: image.check(raw=start.HasField("raw")), job)
        name, chosen = start.name or "image", selection(start.options)
        workers = self._planners if request.options.plan_only else self._workers
        if start.path and start.HasField("raw"):
            raise OptionError("path: expected no raw pixels with it, got both")
        if start.path:
            await workers.run(
                lambda job: image.score(self._scorer.allowed_directory.picture(start.path, chosen), job), job
            )
            return
        if start.HasField("raw"):
            await workers.run(lambda job: image.score_rows(name, start.raw, job), job)
            return
        async with self._spool.file(parts(requests, idle)) as path:
            job.queued_at = time.monotonic()  # it was not waiting while it came
            await workers.run(lambda job: image.score(open_file(path, chosen, name=name), job), job)

    def _admit(self, claim: Claim, run: Run) -> None:
        """Wait for memory, in the thread that scores; the file is here already, and would only come again."""
        while True:
            try:
                return self._admission.plan(claim, run.plan.held_bytes, 0.0, deadline=None, done=run.done)
            except BusyError:
                run.check_cancelled()
                time.sleep(MEMORY_SECONDS)


@dataclass(frozen=True)
class _Image:
    """One call, from the thread's side."""

    scorer: Scorer
    request: scoring_pb2.ScoreRequest
    feed: Feed
    call: Call
    admit: Callable[[Run], None]

    def check(self, *, raw: bool) -> None:
        """Refuse what cannot be, before anything is sent."""
        options = resolve(self.scorer.model(self.request.model, self.request.version), self.request.options)
        if raw and (len(options.scales) > 1 or options.asked.mask_otsu):
            field = "mask_otsu" if options.asked.mask_otsu else "scales"
            raise OptionError(f"{field}: expected none with raw rows, which pass by once: send an encoded file")

    def score_rows(self, name: str, raw: scoring_pb2.RawImage, job: Flow) -> None:
        """Score raw rows as they come, which must be as many as announced."""
        picture, rows = streamed(name, raw, self.feed, selection(self.request.options))
        self.score(picture, job, rows.finish)

    def score(self, picture: Picture, job: Flow, finish: Callable[[], None] = lambda: None) -> None:
        """Score a picture, and `finish` before the summary."""
        run = self.scorer.plan(picture, self.request, job)
        self.call.record["version"] = run.model.version
        if self.request.options.grid:
            check_row(run, self.scorer.limits.message_bytes)
        run.response.timing.queue_ms = job.waited * 1e3
        if self.request.options.plan_only:
            self.feed.send(Part(start=run.planned()))
            return
        note(run, self.call)
        self.admit(run)
        self.feed.send(Part(start=run.response))
        run.progress = Reporter(run.plan.tile_count, self.feed).report
        for band in run.bands():
            for rows in messages(band):
                self.feed.send(Part(rows=rows))
        summary = run.answer()
        finish()
        timed(summary, job, self.call)
        self.feed.send(Part(summary=summary))


@dataclass
class Reporter:
    """Tells the client how far its image is, now and then."""

    tiles: int
    feed: Feed
    last: float = 0.0

    def report(self, done: int) -> None:
        """So many tiles are done."""
        if time.monotonic() - self.last > PROGRESS_SECONDS or done == self.tiles:
            self.last = time.monotonic()
            self.feed.send(Part(progress=scoring_pb2.Progress(tiles=done, of=self.tiles)))


def check_row(run: Run, limit: int) -> None:
    """Raise LimitError if one row of the grid does not fit a message of so many bytes."""
    size = run.plan.views[0].tile_plan.horizontal.cells * run.options.cell_bytes
    if size > limit:
        raise LimitError(
            f"{run.picture.name}: grid: one row of it is {size / MIB:.1f} MiB, expected at most {limit / MIB:.1f}: "
            "name fewer classes, or ask for a coarser stride, grid_as or a region"
        )


def messages(band: GridRows) -> Iterator[scoring_pb2.GridRows]:
    """A band's rows in messages of a size that any client takes, or one row each."""
    each = max(1, ROWS_BYTES // max(1, band.scores[0].nbytes))
    for first in range(0, len(band.scores), each):
        scores = band.scores[first : first + each]
        rows = scoring_pb2.GridRows(first=band.first + first, count=len(scores), scores=little(scores))
        if band.positions is not None:
            rows.positions = little(band.positions[first : first + each])
        yield rows
