"""What an answer, the log and the metrics say of a request's times."""

import time

from fullconv.protos import scoring_pb2
from service import metrics
from service.engine.scheduler import Flow
from service.rpc.calls import Call


def timed(response: scoring_pb2.ScoreResponse, job: Flow, call: Call) -> None:
    """Add how long a request waited, for a thread and then for its first turn, which was counted as compute."""
    timing, first_tile_wait = response.timing, job.first_tile_wait or 0.0
    timing.queue_ms = (job.waited + first_tile_wait) * 1e3
    timing.compute_ms = max(0.0, timing.compute_ms - first_tile_wait * 1e3)
    timing.total_ms = (time.monotonic() - job.queued_at) * 1e3
    call.record |= {"width": response.image.width, "height": response.image.height}
    call.record["queue_ms"] = round(timing.queue_ms, 3)
    metrics.scored(response)
