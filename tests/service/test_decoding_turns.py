"""Turns to decode: shared by clients, left by requests that are cancelled, never all taken by processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from support.hostile import SMALL_WEBP
from support.paths import ROOT

from service.dispatch.decoding_turns import APART_SECONDS, DecodingTurns, RequestDecoding
from service.engine.scheduler import Flow, Scheduler
from service.errors import CancelledRunError
from service.images.decoding import FREE, HEADER, DecodingCost
from service.images.encoded import open_bytes
from service.scoring.scorer import Scorer

SHORT = DecodingCost("PNG", seconds=0.1)
LONG = DecodingCost("WebP", seconds=9.0, step_seconds=2 * APART_SECONDS)


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """A scheduler for the flows of the requests."""
    scheduler = Scheduler(slots=1)
    yield scheduler
    scheduler.close()


class Request:
    """A request in a thread of its own, which takes one turn, holds it until it is told to end, and records that."""

    def __init__(
        self, turns: DecodingTurns, scheduler: Scheduler, client: str, order: list[str], cost: DecodingCost
    ) -> None:
        self.flow, self.has_turn, self.end = Flow(scheduler), Event(), Event()
        self.error: Exception | None = None
        self._turns, self._client, self._order, self._cost = turns, client, order, cost
        self._thread = Thread(target=self._run, daemon=True)

    def start(self) -> "Request":
        """Begin to wait for a turn; returns once the request waits or has its turn."""
        before = self._turns.waiting
        self._thread.start()
        while not self.has_turn.is_set() and self._turns.waiting <= before:
            self.has_turn.wait(0.001)
        return self

    def finish(self) -> None:
        """Let the request end its turn, and wait for that."""
        self.end.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with RequestDecoding(self._turns, self.flow, self._client).turn(self._cost):
                self._order.append(self._client)
                self.has_turn.set()
                self.end.wait(60)
        except CancelledRunError as error:
            self.error = error


def test_clients_take_turns(scheduler: Scheduler) -> None:
    """A client that has just come is served before the further requests of a client with many."""
    turns, order = DecodingTurns(2), list[str]()
    busy = [Request(turns, scheduler, "busy", order, SHORT).start() for _ in range(6)]
    new = Request(turns, scheduler, "new", order, SHORT).start()
    assert order == ["busy", "busy"]
    busy[0].finish()
    assert new.has_turn.wait(60)
    assert order == ["busy", "busy", "new"]
    for request in (new, *busy[1:]):
        request.finish()
    assert order.count("busy") == 6
    assert turns.waiting == 0


def test_processes_never_take_all_turns(scheduler: Scheduler) -> None:
    """However many files wait for a process, a turn is left for files that are decoded in threads."""
    turns, order = DecodingTurns(2), list[str]()
    slow = [Request(turns, scheduler, f"slow {number}", order, LONG).start() for number in range(3)]
    quick = Request(turns, scheduler, "quick", order, SHORT).start()
    assert order == ["slow 0", "quick"]
    quick.finish()
    assert not slow[1].has_turn.is_set()
    for request in slow:
        request.finish()
    assert order == ["slow 0", "quick", "slow 1", "slow 2"]


def test_a_cancelled_request_leaves_the_queue(scheduler: Scheduler) -> None:
    """A request that is cancelled while it waits for a turn ends, and its place is free."""
    turns, order = DecodingTurns(2), list[str]()
    running = [Request(turns, scheduler, "a", order, SHORT).start() for _ in range(2)]
    waiting = Request(turns, scheduler, "b", order, SHORT).start()
    waiting.flow.cancel()
    waiting.finish()
    assert isinstance(waiting.error, CancelledRunError)
    assert turns.waiting == 0
    for request in running:
        request.finish()
    last = Request(turns, scheduler, "b", order, SHORT).start()
    assert last.has_turn.wait(60)
    last.finish()
    assert order == ["a", "a", "b"]


def test_a_pause_passes_the_turn_on(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that pauses leaves its turn to another client that waits, and goes on afterwards."""
    monkeypatch.setattr("service.dispatch.decoding_turns.TURN_SECONDS", 0.0)
    turns, order = DecodingTurns(2), list[str]()
    other = Request(turns, scheduler, "other", order, SHORT).start()
    decoding = RequestDecoding(turns, Flow(scheduler), "long")
    with decoding.turn(SHORT):
        decoding.pause()  # nobody waits
        new = Request(turns, scheduler, "new", order, SHORT).start()
        new.end.set()
        decoding.pause()
        assert order == ["other", "new"]
    assert decoding.seconds > 0
    for request in (new, other):
        request.finish()


def test_a_turn_ends_with_an_error(scheduler: Scheduler) -> None:
    """An error, also of a request that is cancelled at a pause, frees the turn."""
    turns = DecodingTurns(2)
    for _ in range(3):
        with pytest.raises(CancelledRunError):
            cancel_at_a_pause(turns, Flow(scheduler))
    with held(turns, scheduler), held(turns, scheduler):
        assert turns.waiting == 0


def test_pixels_that_are_not_encoded_need_no_turn(scheduler: Scheduler) -> None:
    """Rows of a stream, which may arrive slowly, hold no turn."""
    turns = DecodingTurns(2)
    with held(turns, scheduler), held(turns, scheduler), RequestDecoding(turns, Flow(scheduler), "c").turn(FREE):
        assert turns.waiting == 0


def cancel_at_a_pause(turns: DecodingTurns, flow: Flow) -> None:
    """Take a turn, cancel its request, and pause."""
    decoding = RequestDecoding(turns, flow, "a")
    with decoding.turn(SHORT):
        flow.cancel()
        decoding.pause()


@contextmanager
def held(turns: DecodingTurns, scheduler: Scheduler) -> Iterator[None]:
    """Hold a turn during the block."""
    with RequestDecoding(turns, Flow(scheduler), "held").turn(SHORT):
        yield


def test_a_process_ends_with_its_request(scheduler: Scheduler) -> None:
    """A process that waits for its next rows to be read ends with the request, and so does one that starts later."""
    decoding, ended = RequestDecoding(DecodingTurns(2), Flow(scheduler), "client"), list[bool]()
    rows = open_bytes(SMALL_WEBP, name="i").rows(Scorer(ROOT / "models").model("digits").spec.input, decoding)
    with decoding.turn(HEADER):
        rows.read(0, 16)
    process = rows.source._process  # type: ignore[attr-defined]  # noqa: SLF001 (nothing else shows that it runs)
    assert process.poll() is None
    decoding.close()
    assert process.returncode == -9
    decoding.at_end(lambda: ended.append(True))
    assert ended == [True]
