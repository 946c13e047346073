"""Refusals of a client that sends refused requests at a high rate are delayed, and nothing else is."""

from pathlib import Path

import grpc
import pytest
from support.paths import ROOT
from support.servers import running

from fullconv import Client, ImageError
from service.rpc import refusals
from service.rpc.refusals import DELAY_EACH, FREE_PER_SECOND, MAX_DELAY, Refusals

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PAGE = ROOT / "models" / "digits" / "page.png"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time that the module sees, as a list with one number."""
    now = [100.0]
    monkeypatch.setattr(refusals, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    return now


def test_the_delay_grows_with_the_rate(clock: list[float]) -> None:
    """The first refusals of a second are free; each further one adds to the delay, up to a limit."""
    counter = Refusals()
    delays = [counter.delay("a", INVALID) for _ in range(200)]
    assert delays[: int(FREE_PER_SECOND)] == [0.0] * int(FREE_PER_SECOND)
    assert delays[int(FREE_PER_SECOND)] == pytest.approx(DELAY_EACH)
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY
    clock[0] += 5
    assert counter.delay("a", INVALID) == 0.0


def test_other_clients_and_statuses_are_not_delayed(clock: list[float]) -> None:
    """Only refusals count, each for its own client."""
    counter = Refusals()
    for _ in range(200):
        counter.delay("a", INVALID)
    assert counter.delay("b", INVALID) == 0.0
    assert counter.delay("a", grpc.StatusCode.UNAVAILABLE) == counter.delay("a", grpc.StatusCode.NOT_FOUND) == 0.0
    assert clock == [100.0]


def test_few_clients_are_remembered(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients whose refusals are the oldest are forgotten."""
    monkeypatch.setattr(refusals, "KEPT_CLIENTS", 3)
    counter = Refusals()
    for number in range(100):
        counter.delay(str(number), INVALID)
        clock[0] += 0.001
    assert list(counter._counts) == ["97", "98", "99"]  # noqa: SLF001 (what is remembered has no other effect)


def test_delayed_refusals_and_later_answers_arrive(tmp_path: Path) -> None:
    """A client that is slowed down gets every refusal as before, and answers to its good requests."""
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(PAGE.read_bytes()[:5000])
    with running(ROOT / "models") as server, Client(server.address, timeout=60) as client:
        client.score(PAGE, model="digits")
        for _ in range(int(FREE_PER_SECOND) + 20):
            with pytest.raises(ImageError):
                client.score(damaged, model="digits")
        assert client.score(PAGE, model="digits").top
        assert {line["code"] for line in server.events("request")} == {"OK", "INVALID_ARGUMENT"}
