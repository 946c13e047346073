"""The pieces of jobs: memory budgets, limits of failures, and the division into parts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversion import convert_into
from support.networks import UNPADDED, make_network
from support.pictures import noise
from support.stores import MemoryStore

from fullconv.base import BaseScorer
from service.batch import job
from service.batch.budget import Budget
from service.batch.changes import Comparison
from service.batch.engines import local_transport
from service.batch.job import Job, open_job
from service.batch.limits import FailureLimit
from service.batch.listing import OWN, Listing
from service.batch.reading import Copies
from service.batch.stop import Stop, StoppedError

CHANNELS = UNPADDED.replace('"unpadded"', '"channels"').replace("out = 6", "out = 58").replace("out = 8", "out = 58")


def test_memory_is_never_exceeded_and_large_claims_have_their_turn() -> None:
    """Claims wait for memory; a claim beyond the budget is alone; nobody waits for ever."""
    budget, sizes = Budget(10.0), [3.0, 4.0, 25.0, 1.0, 5.0] * 20
    held: list[float] = []

    def work(size: float) -> None:
        with budget.claim(size, lambda: None):
            held.append(budget.held)
            assert budget.held <= 10 or budget.held == 25

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, sizes))
    assert len(held) == len(sizes)
    assert budget.held == 0
    assert budget.highest == 25


def test_waiting_claims_can_be_given_up() -> None:
    """A check that raises ends the wait, and the next claim has its turn."""
    budget, stop, entered = Budget(1.0), Stop(), Barrier(2)
    left = Event()

    def hold() -> None:
        with budget.claim(1.0, lambda: None):
            entered.wait()
            left.wait()

    def wait() -> None:
        with budget.claim(1.0, stop.check):
            raise AssertionError("the memory was not free")

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        entered.wait()
        waiting = pool.submit(wait)
        stop.now()
        with pytest.raises(StoppedError):
            waiting.result()
        left.set()
        holding.result()
    with budget.claim(1.0, lambda: None):
        assert budget.held == 1.0


@pytest.mark.parametrize(
    ("text", "failed", "exceeded"),
    [
        (None, 10**9, False),
        ("0", 1, True),
        ("0", 0, False),
        ("5", 5, False),
        ("5", 6, True),
        ("10%", 20, False),
        ("10%", 21, True),
        ("0.5%", 1, False),
        ("0.5%", 2, True),
    ],
)
def test_limits_of_failures(text: str | None, failed: int, exceeded: bool) -> None:  # noqa: FBT001 (a parameter)
    """A limit is a number of images, or a share of 200 images."""
    assert FailureLimit.parse(text).exceeded(failed, 200) == exceeded


@pytest.mark.parametrize("text", ["", "-1", "1.5", "5 %", "101%", "x", "1e3", "٣"])
def test_wrong_limits_of_failures(text: str) -> None:
    """Other texts are refused."""
    with pytest.raises(ValueError, match="expected a number of images, or a percentage such as 5%"):
        FailureLimit.parse(text)


def job_of(sizes: list[int | None]) -> Job:
    names = [f"{number}" for number in range(len(sizes))]
    columns = {"path": names, "bytes": pa.array(sizes, pa.int64()), "modified_or_etag": names, "grid": names}
    return open_job(MemoryStore(), {}, Listing(pa.table(columns, schema=OWN)), Comparison("", Copies(Stop())))


@given(st.lists(st.one_of(st.none(), st.integers(0, 300)), min_size=1, max_size=60))
def test_parts_divide_the_images(sizes: list[int | None]) -> None:
    """Parts have all images in their order, are not empty, and have few images and bytes, or one image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "PART_IMAGES", 7)
        patch.setattr(job, "PART_BYTES", 500)
        divided = job_of(sizes)
    parts = [divided.part(number).images.paths for number in range(len(divided.bounds))]
    assert [path for part in parts for path in part] == [f"{number}" for number in range(len(sizes))]
    for part in parts:
        assert 1 <= len(part) <= 7
        assert len(part) == 1 or sum(sizes[int(path)] or 0 for path in part) <= 500


def test_scores_do_not_depend_on_other_images(tmp_path: Path) -> None:
    """An image gets the same bits whether it is scored alone or beside others, also where threads round differently.

    ONNX Runtime divides the work of a convolution with 58 channels among threads so that sums are rounded differently.
    """
    models = convert_into(tmp_path / "models", make_network(tmp_path, CHANNELS))
    scorer = BaseScorer(local_transport(models, cpus=2))
    images = [noise(22 + number, 26 + number, 3) for number in range(24)]
    options: dict[str, Any] = {"model": "channels", "mode": "dense", "grid": True}

    def score(image: Any) -> Any:  # noqa: ANN401 (an array)
        return scorer.score(image, **options).grid

    alone = [score(image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            for expected, got in zip(alone, pool.map(score, images), strict=True):
                assert np.array_equal(expected, got)
