"""The remaining tiles of a request that has failed do not run."""

import asyncio
import time
from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.scoring import plan_message

from fullconv.encode import image_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2
from service.dispatch.workers import Workers
from service.engine.batching import Batching
from service.engine.cancellation import Cancellation
from service.engine.scheduler import Flow, Scheduler
from service.engine.session import Session
from service.errors import ImageError
from service.limits import Tuning
from service.scoring.scorer import Scorer


async def score_in_worker(scorer: Scorer, request: scoring_pb2.ScoreRequest, flow: Flow) -> scoring_pb2.ScoreResponse:
    """Score an image in a worker thread."""
    return await Workers(1, "score").run(lambda: plan_message(scorer, request, flow).complete(), flow)


def test_tiles_after_nan_scores_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first tile's scores are NaN, the run of the second is stopped, and the others never begin."""
    ran: list[int] = []
    stopped = Event()

    def score(_: Session, tiles: Sequence[np.ndarray], cancellation: Cancellation, **_single: bool) -> Any:  # noqa: ANN401 (an array, or no return)
        ran.append(len(tiles))
        if len(ran) == 1:
            return np.full((len(tiles), 99, 99, 11), np.nan, np.float32)
        end = time.monotonic() + 10
        while not cancellation.cancelled and time.monotonic() < end:
            time.sleep(0.001)
        if cancellation.cancelled:
            stopped.set()
        raise RuntimeError("terminated")

    scorer = Scorer(ROOT / "models", tuning=Tuning(tile_bytes=1 << 20))
    request = scoring_pb2.ScoreRequest(model="digits", image=image_message(source_of(noise(300, 300, 1))))
    assert plan_message(scorer, request).plan.tile_count > 9
    monkeypatch.setattr(Session, "score", score)
    scheduler = Scheduler(slots=1, batching=Batching(max_tiles=1))
    try:
        with pytest.raises(ImageError, match="gives values that are NaN or infinite"):
            asyncio.run(score_in_worker(scorer, request, Flow(scheduler)))
        assert stopped.wait(20)
        assert scheduler.waiting == 0
    finally:
        scheduler.close()
    assert ran == [1, 1]
