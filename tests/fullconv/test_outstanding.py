"""What ScoreMany has sent and has no answer to, over several calls, without a server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from fullconv.protos import scoring_pb2
from fullconv.remote.outstanding import Make, Outstanding


def make() -> scoring_pb2.ScoreRequest:
    """Any request."""
    return scoring_pb2.ScoreRequest(model="m")


def test_answers_do_not_wait_for_the_next_image() -> None:
    """An iterator that waits for the answer to its last image gets it."""
    answered = Event()

    def items() -> Iterator[tuple[str, Make]]:
        yield "first", make
        assert answered.wait(10)
        yield "second", make

    outstanding = Outstanding(items())
    requests = outstanding.requests()
    first = next(requests)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(next, requests)
        assert outstanding.answered(first.id) == "first"
        answered.set()
        assert outstanding.answered(second.result(10).id) == "second"


def test_what_was_being_made_for_a_call_that_ended_is_sent_by_the_next() -> None:
    """Once, and with what had no answer."""
    made, go_on = Event(), Event()

    def slowly() -> scoring_pb2.ScoreRequest:
        made.set()
        assert go_on.wait(10)
        return make()

    outstanding = Outstanding([("first", make), ("slow", slowly), ("last", make)])
    old = outstanding.requests()
    next(old)
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(next, old, None)
        assert made.wait(10)
        new = outstanding.requests()
        assert outstanding.answered(next(new).id) == "first"
        rest = pool.submit(list, new)
        go_on.set()
        assert late.result(10) is None
        assert [outstanding.answered(request.id) for request in rest.result(10)] == ["slow", "last"]
