"""Streams that a server, or a proxy before it, ends with OK before all requests are answered."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from support.answers import averaged, described
from support.hostile_servers import serving
from support.pictures import noise

from fullconv import Answer, AsyncClient, Client, ScoringError, UnavailableError
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from fullconv.remote.retries import STATUS_LOST

IMAGES = [(f"i{number}", noise(4, 4 + number, 1)) for number in range(12)]
Many = Callable[..., dict[str, Answer | ScoringError]]


class Hasty(scoring_pb2_grpc.ScoringServicer):
    """Answers a given number of images in each call, then ends the call; it reads all images, or only these."""

    def __init__(self, answers: Iterator[int], *, reads_all: bool) -> None:
        self.answers, self.reads_all, self.calls = answers, reads_all, 0

    def ScoreMany(self, requests: Iterator[scoring_pb2.ScoreManyRequest], _: Any) -> Iterator[Any]:  # noqa: ANN401, N802 (gRPC's)
        """Answer some images."""
        self.calls += 1
        for request in islice(requests, next(self.answers)):
            raw = request.request.image.raw
            yield scoring_pb2.ScoreManyResponse(id=request.id, response=averaged("m", raw.height, raw.width))
        if self.reads_all:
            list(requests)

    def ScoreLarge(self, requests: Iterator[scoring_pb2.ScoreLargeRequest], _: Any) -> Iterator[Any]:  # noqa: ANN401, N802
        """Send the plan and one row of the grid, but no summary."""
        raw = next(requests).start.raw
        yield scoring_pb2.ScoreLargeResponse(start=described("m", raw.height, raw.width, rows=2))
        rows = scoring_pb2.GridRows(first=0, count=1, scores=np.zeros(1, "<f4").tobytes())
        yield scoring_pb2.ScoreLargeResponse(rows=rows)
        if self.reads_all:
            list(requests)


def score_many(address: str, **settings: Any) -> dict[str, Answer | ScoringError]:
    """Score all images with the client; fails if an image has two answers."""
    with Client(address, **settings) as client:
        answers = list(client.score_many(IMAGES, model="m"))
    assert len(dict(answers)) == len(answers)
    return dict(answers)


def score_many_asynchronously(address: str, **settings: Any) -> dict[str, Answer | ScoringError]:
    """Score all images with the asyncio client; fails if an image has two answers."""

    async def main() -> list[tuple[str, Answer | ScoringError]]:
        async with AsyncClient(address, **settings) as client:
            return [answer async for answer in client.score_many(IMAGES, model="m")]

    answers = asyncio.run(main())
    assert len(dict(answers)) == len(answers)
    return dict(answers)


@pytest.fixture(params=[score_many, score_many_asynchronously], ids=["client", "asyncio"])
def many(request: pytest.FixtureRequest) -> Many:
    """`score_many` of both clients."""
    score: Many = request.param
    return score


@pytest.mark.parametrize("reads_all", [False, True], ids=["stops-reading", "reads-all"])
def test_images_without_an_answer_are_sent_again(many: Many, *, reads_all: bool) -> None:
    """If streams end with OK too early, every image still gets its own answer once."""
    servicer = Hasty(iter([3, 0, 5, 99]), reads_all=reads_all)
    with serving(servicer) as address:
        answers = many(address)
    assert servicer.calls == 4
    widths = {name: answer.image.width for name, answer in answers.items() if isinstance(answer, Answer)}
    assert widths == {name: image.shape[1] for name, image in IMAGES}


@pytest.mark.parametrize("reads_all", [False, True], ids=["stops-reading", "reads-all"])
def test_images_that_are_never_answered_are_an_error(many: Many, *, reads_all: bool) -> None:
    """After the last retry the loop raises an error instead of ending silently."""
    servicer = Hasty(iter([4, 0, 0]), reads_all=reads_all)
    expected_message = f"UNAVAILABLE: the stream ended with OK before every image had an answer|{STATUS_LOST}"
    with serving(servicer) as address, pytest.raises(UnavailableError, match=expected_message):
        many(address, retries=2)
    assert servicer.calls == 3


def test_complete_streams_are_not_repeated(many: Many) -> None:
    """A stream that ends with OK after the last answer is not repeated."""
    servicer = Hasty(iter([12]), reads_all=True)
    with serving(servicer) as address:
        assert len(many(address)) == 12
    assert servicer.calls == 1


def test_grids_that_end_early_are_an_error() -> None:
    """Both clients raise an error if the rows of a large image end before the summary."""
    expected_message = "ended the stream before it sent the summary"

    async def take(address: str) -> None:
        async with AsyncClient(address) as client, await client.score_large(IMAGES[0][1], model="m", grid=True) as run:
            async for _ in run.bands():
                pass

    with serving(Hasty(iter(()), reads_all=True)) as address:
        with Client(address) as client, client.score_large(IMAGES[0][1], model="m", grid=True) as run:
            rows = run.bands()
            assert next(rows)[0] == 0
            with pytest.raises(UnavailableError, match=expected_message):
                next(rows)
            with pytest.raises(UnavailableError, match=expected_message):
                run.result()
        with pytest.raises(UnavailableError, match=expected_message):
            asyncio.run(take(address))
