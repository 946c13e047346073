"""The times of the stages of a run, with a clock that advances only while the network runs or pixels are read."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.scoring import plan_message

from fullconv.encode import image_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2
from service.engine.cancellation import Cancellation
from service.engine.session import Session
from service.images.rows import RowBuffer
from service.limits import Tuning
from service.scoring import band, execution
from service.scoring.scorer import Scorer

MODELS = ROOT / "models"
BATCH_SECONDS, READ_SECONDS = 2.0, 1000.0
WHOLE, TILED = 2 << 30, 1 << 20
"""Bytes of activations of one tile: more than the images of these tests need, and a fraction of that."""


class Clock:
    """The clock of a run: it advances by BATCH_SECONDS for each batch, and by `reading` seconds for each strip."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, reading: float) -> None:
        self.now, self.batches = 0.0, 0
        score, read_rows = Session.score, RowBuffer.read

        def computing(session: Session, tiles: Sequence[Any], cancellation: Cancellation | None = None) -> Any:  # noqa: ANN401 (the type of `score`)
            self.now += BATCH_SECONDS
            self.batches += 1
            return score(session, tiles, cancellation)

        def read(buffer: RowBuffer, first: int, stop: int) -> Any:  # noqa: ANN401
            self.now += reading
            return read_rows(buffer, first, stop)

        monkeypatch.setattr(Session, "score", computing)
        monkeypatch.setattr(RowBuffer, "read", read)
        for module in (band, execution):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


def request(height: int, width: int, **options: Any) -> scoring_pb2.ScoreRequest:
    """Return a request for an image of noise."""
    message = scoring_pb2.ScoreOptions(**options)
    return scoring_pb2.ScoreRequest(
        model="digits", image=image_message(source_of(noise(height, width, 1))), options=message
    )


@pytest.mark.parametrize(
    ("options", "tile_bytes", "batches"),
    [
        ({}, WHOLE, 1),
        ({"grid": True}, WHOLE, 1),
        ({}, TILED, 4),
        ({"flip": True, "grid": True}, TILED, 8),
        ({"mode": scoring_pb2.MODE_CROPS, "stride": 32}, WHOLE, 4),
    ],
    ids=["one-tile", "grid", "tiles", "flip", "crops"],
)
def test_compute_is_the_time_that_the_network_ran(
    options: dict[str, Any], tile_bytes: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch of every band counts as compute, including the first batches, which run when they are submitted."""
    scorer, message = Scorer(MODELS, tuning=Tuning(tile_bytes=tile_bytes)), request(300, 300, **options)
    clock = Clock(monkeypatch, reading=0.0)
    timing = plan_message(scorer, message).complete().timing
    assert clock.batches >= batches
    np.testing.assert_allclose(timing.compute_ms, clock.batches * BATCH_SECONDS * 1e3, rtol=1e-9)
    assert (timing.decode_ms, timing.reduce_ms) == (0.0, 0.0)


@pytest.mark.parametrize("tile_bytes", [WHOLE, TILED], ids=["one-tile", "tiles"])
def test_reading_pixels_is_not_compute(tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in which the only strip of an image is read counts as decoding alone."""
    scorer, message = Scorer(MODELS, tuning=Tuning(tile_bytes=tile_bytes)), request(70, 600)
    clock = Clock(monkeypatch, reading=READ_SECONDS)
    timing = plan_message(scorer, message).complete().timing
    np.testing.assert_allclose(timing.decode_ms, READ_SECONDS * 1e3, rtol=1e-9)
    np.testing.assert_allclose(timing.compute_ms, clock.batches * BATCH_SECONDS * 1e3, rtol=1e-9)
