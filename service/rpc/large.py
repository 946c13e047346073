"""ScoreLarge: one image in parts, of which the server holds no more than it scores.

start → the plan → rows in, rows out → the summary
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from protos import scoring_pb2
from service.errors import LimitError, OptionError
from service.executor import Executor
from service.images.picture import Picture, open_file
from service.options import resolve
from service.rpc.feed import Feed, Requests, Send, parts, streamed
from service.rpc.spool import Spool
from service.run import GridRows, Run
from service.scoring import MIB, Scorer, little

Part = scoring_pb2.ScoreLargeResponse

PROGRESS_SECONDS = 0.2
ROWS_BYTES = 1 << 20
"""Of the grid's rows in one message, if a row is not more by itself: what any client takes unasked."""


class ScoreLarge:
    """Scores one image after the other, in an executor of its own, so that small ones do not wait for them."""

    def __init__(self, scorer: Scorer, executor: Executor, quick: Executor, spool: Spool) -> None:
        self._scorer, self._executor, self._quick, self._spool = scorer, executor, quick, spool

    async def answer(
        self, start: scoring_pb2.LargeImage, requests: Requests, send: Send, record: dict[str, Any]
    ) -> None:
        """Answer one call, whose first part was `start`."""
        request = scoring_pb2.ScoreRequest(model=start.model, version=start.version, options=start.options)
        size, idle = start.ByteSize(), self._scorer.limits.idle_seconds
        record |= {"model": start.model, "bytes": size}
        call = _Call(self._scorer, request, Feed(requests, send, idle), record, time.monotonic())
        await self._quick.run(lambda _: call.check(raw=start.HasField("raw")), size=size)
        name = start.name or "image"
        executor = self._quick if request.options.plan_only else self._executor
        if start.HasField("raw"):
            await executor.run(lambda gone: call.score_rows(name, start.raw, gone), size=size)
            return
        async with self._spool.file(parts(requests, idle)) as path:
            call = replace(call, asked=time.monotonic())
            await executor.run(lambda gone: call.score(open_file(path, name=name), gone), size=size)


@dataclass(frozen=True)
class _Call:
    """One call, from the thread's side."""

    scorer: Scorer
    request: scoring_pb2.ScoreRequest
    feed: Feed
    record: dict[str, Any]
    asked: float
    """When it began to wait for its turn."""

    def check(self, *, raw: bool) -> None:
        """Refuse what cannot be, before anything is sent."""
        options = resolve(self.scorer.model(self.request.model, self.request.version), self.request.options)
        if raw and (len(options.scales) > 1 or options.asked.mask_otsu):
            field = "mask_otsu" if options.asked.mask_otsu else "scales"
            raise OptionError(f"{field}: expected none with raw rows, which pass by once: send an encoded file")

    def score_rows(self, name: str, raw: scoring_pb2.RawImage, gone: Callable[[], bool]) -> None:
        """Score raw rows as they come, which must be as many as announced."""
        picture, rows = streamed(name, raw, self.feed)
        self.score(picture, gone, rows.finish)

    def score(self, picture: Picture, gone: Callable[[], bool], finish: Callable[[], None] = lambda: None) -> None:
        """Score a picture, and `finish` before the summary."""
        queued = (time.monotonic() - self.asked) * 1e3
        self.record.update(width=picture.width, height=picture.height, queue_ms=round(queued, 3))
        run = self.scorer.plan(picture, self.request, gone)
        run.started, run.response.timing.queue_ms = self.asked, queued
        if self.request.options.grid:
            check_row(run, self.scorer.limits.message_bytes)
        self.feed.send(Part(start=run.response))
        if self.request.options.plan_only:
            return
        run.progress = Reporter(run.plan.tiles, self.feed).report
        for band in run.bands():
            for rows in messages(band):
                self.feed.send(Part(rows=rows))
        summary = run.answer()
        finish()
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
    size = run.plan.views[0].tiles.horizontal.cells * run.options.cell_bytes
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
