"""The requests of one `score_many` that have no answer yet, without a server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from fullconv.images import EncodedSource, ImageSource
from fullconv.protos import scoring_pb2
from fullconv.remote.outstanding import Outstanding
from fullconv.transport import ManyItem


def make() -> tuple[scoring_pb2.ScoreRequest, ImageSource]:
    """Make a request and an image."""
    return scoring_pb2.ScoreRequest(model="m"), EncodedSource(b"")


def test_answers_do_not_wait_for_the_next_image() -> None:
    """An iterator that waits for the answer to its last image before it yields the next one gets the answer."""
    answered = Event()

    def items() -> Iterator[ManyItem]:
        yield ManyItem("first", make)
        assert answered.wait(10)
        yield ManyItem("second", make)

    outstanding = Outstanding(items())
    requests = outstanding.requests()
    first = next(requests)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(next, requests)
        assert outstanding.answered(first.id).name == "first"
        answered.set()
        assert outstanding.answered(second.result(10).id).name == "second"


def test_requests_of_ended_calls_are_sent_by_the_next_call() -> None:
    """If a call ends while a request is made for it, the next call sends the request once."""
    made, proceed = Event(), Event()

    def slowly() -> tuple[scoring_pb2.ScoreRequest, ImageSource]:
        made.set()
        assert proceed.wait(10)
        return make()

    outstanding = Outstanding([ManyItem("first", make), ManyItem("slow", slowly), ManyItem("last", make)])
    old = outstanding.requests()
    next(old)
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(next, old, None)
        assert made.wait(10)
        new = outstanding.requests()
        assert outstanding.answered(next(new).id).name == "first"
        rest = pool.submit(list, new)
        proceed.set()
        assert late.result(10) is None
        assert [outstanding.answered(request.id).name for request in rest.result(10)] == ["slow", "last"]
