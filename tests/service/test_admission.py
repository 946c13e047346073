"""Admission of requests, without a server."""

import time
from contextlib import ExitStack
from typing import Any

import pytest

from service.dispatch.admission import Admission
from service.errors import BusyError, LimitError
from service.limits import MIB, Limits

WIDE: dict[str, Any] = {
    "waiting": 100,
    "waiting_bytes": 1000,
    "held_bytes": 1000,
    "waiting_seconds": 100.0,
    "client_share": 1.0,
}


def admission(**limits: Any) -> Admission:
    """Return an admission with wide limits, except for the given limits."""
    return Admission(Limits(**WIDE | limits))


@pytest.mark.parametrize("limits", [{"waiting": 2}, {"waiting_bytes": 25}], ids=["number", "bytes"])
def test_waiting_requests_are_bounded(limits: dict[str, float]) -> None:
    """A third request is refused with the delay of a retry, and is admitted once there is room."""
    gate = admission(**limits)
    with gate.admitted("a", 10):
        with gate.admitted("b", 10):
            with pytest.raises(BusyError) as refused, gate.admitted("c", 10):
                pass
            assert 0.1 <= refused.value.seconds <= 10
        with gate.admitted("c", 10):
            assert gate.load.requests == 2
    assert (gate.load.requests, gate.load.message_bytes) == (0, 0)


def test_answers_that_clients_take_slowly_count_as_messages() -> None:
    """An answer is never refused; while it is sent, it counts, so that requests beyond the limit are refused."""
    gate = admission(waiting_bytes=100, client_share=0.5)
    with gate.answer("a", 40):
        with gate.answer("a", 40), pytest.raises(BusyError, match="your requests"), gate.admitted("a", 1):
            pass
        with gate.admitted("a", 10), gate.admitted("b", 50):
            assert gate.load.message_bytes == 100
    assert (gate.load.requests, gate.load.message_bytes) == (0, 0)


def test_a_single_request_may_exceed_the_limits() -> None:
    """A request that exceeds the limits of messages and time, or its client's share of memory, is admitted alone."""
    gate = admission(waiting_bytes=5, held_bytes=60, waiting_seconds=1.0)
    with gate.admitted("a", 50) as claim:
        gate.plan(claim, 50, 50.0, deadline=None, done=lambda: 0.0)
        with pytest.raises(BusyError), gate.admitted("b", 1):
            pass


def test_a_plan_never_exceeds_the_memory_of_all_requests() -> None:
    """A plan that needs more memory than all requests together may hold is refused for good, even if it is alone."""
    gate = admission(held_bytes=5 << 20)
    with gate.admitted("a", 1) as claim, pytest.raises(LimitError, match=r"memory: .* at most 5 MiB, got 6 as planned"):
        gate.plan(claim, 6 << 20, 1.0, deadline=None, done=lambda: 0.0)


def test_large_images_leave_room_for_small_ones() -> None:
    """Images that need little memory are admitted beside a large one of the same client, up to a part of their own."""
    gate = admission(held_bytes=6400, client_share=0.5)
    with ExitStack() as admitted:
        large, *small = (admitted.enter_context(gate.admitted("a", 1)) for _ in range(11))
        gate.plan(large, 3200, 1.0, deadline=None, done=lambda: 0.0)
        with pytest.raises(BusyError, match="your requests"):
            gate.plan(small[0], 51, 1.0, deadline=None, done=lambda: 0.0)
        for claim in small[:8]:
            gate.plan(claim, 50, 1.0, deadline=None, done=lambda: 0.0)
        with pytest.raises(BusyError, match="your requests"):
            gate.plan(small[8], 50, 1.0, deadline=None, done=lambda: 0.0)
        assert gate.load.held_bytes == 3600


@pytest.mark.parametrize(
    ("held", "seconds", "expected_message"),
    [(600, 1.0, "MiB of pixels"), (1, 60.0, "seconds of compute")],
    ids=["memory", "time"],
)
def test_plans_are_bounded(held: int, seconds: float, expected_message: str) -> None:
    """A plan is refused if its memory or its compute, together with those of other requests, exceeds a limit."""
    gate = admission()
    with gate.admitted("a", 1) as first, gate.admitted("b", 1) as second:
        gate.plan(first, 600, 60.0, deadline=None, done=lambda: 0.0)
        with pytest.raises(BusyError, match=expected_message):
            gate.plan(second, held, seconds, deadline=None, done=lambda: 0.0)
        assert gate.load.held_bytes == 600
    assert (gate.load.held_bytes, gate.load.seconds) == (0, 0.0)


def test_a_client_has_its_share() -> None:
    """One client may use half of the places; the other places remain for other clients."""
    gate = admission(waiting=8, client_share=0.5)
    with ExitStack() as admitted:
        for _ in range(4):
            admitted.enter_context(gate.admitted("greedy", 1))
        with pytest.raises(BusyError, match="your requests"), gate.admitted("greedy", 1):
            pass
        for _ in range(4):
            admitted.enter_context(gate.admitted("modest", 1))


def test_missed_deadlines_are_predicted() -> None:
    """A request is refused if it would miss its deadline; each other request counts at most its own compute."""
    gate = admission(waiting_seconds=1000.0)
    with gate.admitted("a", 1) as long, gate.admitted("b", 1) as short:
        gate.plan(long, 1, 50.0, deadline=None, done=lambda: 0.5)
        gate.plan(short, 1, 2.0, deadline=time.monotonic() + 4.5, done=lambda: 0.0)
        with pytest.raises(BusyError, match="deadline"):
            gate.plan(short, 1, 2.0, deadline=time.monotonic() + 3.5, done=lambda: 0.0)
        with pytest.raises(BusyError, match="deadline"):
            gate.plan(short, 1, 50.0, deadline=time.monotonic() + 70.0, done=lambda: 0.0)
        gate.plan(short, 1, 50.0, deadline=time.monotonic() + 80.0, done=lambda: 0.0)


def test_streams_of_messages_are_bounded() -> None:
    """Streams that may each hold a large message are as many as messages fit into the limit for messages."""
    gate = admission(streams=64, waiting_bytes=8 * MIB, message_bytes=2 * MIB, client_share=0.5)
    with gate.stream("a", of_messages=True), gate.stream("a", of_messages=True), gate.stream("a"):
        expected = "your requests together to be at most 2 streams of messages, got 3"
        with pytest.raises(BusyError, match=expected), gate.stream("a", of_messages=True):
            pass
        with gate.stream("b", of_messages=True), gate.stream("c", of_messages=True):
            expected = "all requests together to be at most 4 streams of messages"
            with pytest.raises(BusyError, match=expected), gate.stream("d", of_messages=True):
                pass
    assert gate.load.message_streams == 0


def test_streams_are_bounded() -> None:
    """The number of concurrent streams is limited, in total and for each client."""
    gate = admission(streams=4, client_share=0.5)
    with gate.stream("a"), gate.stream("a"):
        with pytest.raises(BusyError, match="your requests together to be at most 2 streams, got 3"), gate.stream("a"):
            pass
        with gate.stream("b"), gate.stream("c"):
            with pytest.raises(BusyError, match="all requests together to be at most 4 streams"), gate.stream("d"):
                pass
            assert gate.load.requests == 0
    with gate.stream("a"):
        pass


def test_requests_without_a_plan_do_not_block_others() -> None:
    """Of two requests that each exceed the limits the first plan is admitted, and the second after the first ends."""
    gate = admission(held_bytes=60, waiting_seconds=1.0, client_share=0.5)
    with gate.admitted("a", 1) as second:
        with gate.admitted("a", 1) as first:
            gate.plan(first, 50, 50.0, deadline=None, done=lambda: 0.0)
            with pytest.raises(BusyError) as refused:
                gate.plan(second, 50, 50.0, deadline=None, done=lambda: 0.0)
            assert refused.value.seconds == 10.0
        gate.plan(second, 50, 50.0, deadline=None, done=lambda: 0.0)
