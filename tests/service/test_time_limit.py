"""Work with a time limit, and a repository with a volume that does not answer."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from support.hostile_models import DIGITS
from support.servers import wait_until

from service.engine import repository
from service.engine.registry import Registry
from service.engine.time_limit import MAX_HUNG, TimeLimit
from service.errors import ModelError
from service.server.health import Health


@pytest.fixture
def answer() -> Iterator[Event]:
    """An event that hung work waits for; it is set after the test."""
    event = Event()
    yield event
    event.set()


def test_late_work_holds_up_no_other(answer: Event) -> None:
    """Each work that hangs is late, and every other work has its result, beside it and later."""
    limit, tried = TimeLimit(0.2), list[int]()

    def hang() -> bool:
        tried.append(1)
        return answer.wait()

    hanging = [0, 1, 2, 3, 4, 20]
    work: dict[int, Callable[[], bool]] = {number: hang if number in hanging else answer.is_set for number in range(21)}
    for _ in range(3):
        results = limit.run_all(work)
        assert [key for key, result in results.items() if isinstance(result, TimeoutError)] == hanging
        assert [results[key] for key in range(5, 20)] == [False] * 15
    assert len(tried) == len(hanging)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 seconds"):
        limit.run(0, hang)


def test_work_that_has_ended_is_tried_again(answer: Event) -> None:
    """Work that was late runs again after its first run has ended."""
    limit, ended = TimeLimit(0.1), Event()

    def work() -> int:
        answer.wait()
        ended.set()
        return 5

    with pytest.raises(TimeoutError):
        limit.run("a", work)
    answer.set()
    assert ended.wait(60)
    while True:
        try:
            assert limit.run("a", work) == 5
        except TimeoutError:
            continue
        return


def test_hung_threads_are_few(answer: Event) -> None:
    """When many threads hang, no more work is started."""
    limit, started = TimeLimit(0.05), list[int]()

    def hang(number: int) -> None:
        started.append(number)
        answer.wait()

    for number in range(2 * MAX_HUNG):
        with pytest.raises(TimeoutError):
            limit.run(number, lambda number=number: hang(number))  # type: ignore[misc]
    assert len(started) == MAX_HUNG


def test_errors_of_work_are_raised() -> None:
    """The error of a work is raised where its result is awaited."""

    def fail() -> None:
        raise KeyError(3)

    with pytest.raises(KeyError):
        TimeLimit(60).run("a", fail)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the models `digits` and `stalled`, whose file system must answer soon."""
    monkeypatch.setattr(repository, "LOOK_SECONDS", 0.5)
    for name in ("digits", "stalled"):
        shutil.copytree(DIGITS, tmp_path / "models" / name / "1")
    return tmp_path / "models"


def hang_below(place: Path, answer: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at a folder or file, and at what is in it, wait for an answer."""
    for name in ("stat", "iterdir"):
        real = getattr(Path, name)

        def hang(path: Path, *rest: object, real: Callable[..., object] = real, **named: object) -> object:
            if path.is_relative_to(place):
                answer.wait()
            return real(path, *rest, **named)

        monkeypatch.setattr(Path, name, hang)


@pytest.mark.parametrize(
    ("of", "failing"),
    [("stalled", 2), ("stalled/1", 1), ("stalled/1/weights.data", 1)],
    ids=["model", "version", "file"],
)
def test_a_volume_that_does_not_answer_is_reported(
    models: Path, answer: Event, of: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder or file that does not answer fails its own versions, which serve on; later models are found."""
    told: list[tuple[str, str, str, str]] = []
    registry = Registry(models, warm=True, report=lambda *one: told.append(one))
    before = registry.get("stalled")[1]
    hang_below(models / of, answer, monkeypatch)
    for number in range(3):
        shutil.copytree(DIGITS, models / f"later{number}" / "1")
        monkeypatch.setattr(repository, "SETTLED_NS", 0)
        registry.refresh()
        assert registry.get(f"later{number}")[1].version == "1"
    assert registry.get("stalled")[1] is before
    assert registry.failing == failing
    assert list(registry.unlisted) == (["stalled"] if of == "stalled" else [])
    kept = [(event, name, error) for event, name, _, error in told if name == "stalled" and event != "loaded"]
    assert [event for event, _, _ in kept] == ["not loaded", "kept"]
    assert "its files cannot be accessed: no answer within 0.5 seconds" in kept[0][2]
    answer.set()
    while registry.failing:
        registry.refresh()
    assert registry.get("stalled")[1].version == "1"


def test_a_server_starts_beside_a_volume_that_does_not_answer(
    models: Path, answer: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry is made although a folder does not answer, whose versions fail and no others."""
    hang_below(models / "stalled" / "1", answer, monkeypatch)
    registry = Registry(models, warm=True)
    assert registry.get("digits")[1].version == "1"
    with pytest.raises(ModelError, match="stalled/1: its files cannot be accessed: no answer within"):
        registry.get("stalled")


def test_a_repository_that_does_not_answer_is_reported(
    models: Path, answer: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the whole repository does not answer, its models are still served, and the registry counts one failure."""
    registry = Registry(models, warm=True)
    registry.get("digits")
    hang_below(models, answer, monkeypatch)
    for _ in range(3):
        registry.refresh()
    assert registry.unlisted == {"": "no answer within 0.5 seconds"}
    assert registry.failing == 1
    assert registry.get("digits")[1].version == "1"
    answer.set()
    wait_until(lambda: not registry.refresh() and not registry.failing)


def test_folders_that_do_not_answer_are_logged_once(
    models: Path, answer: Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names a folder that does not answer once, and again after it has answered in between."""
    hang_below(models / "stalled", answer, monkeypatch)

    async def look() -> None:
        registry = Registry(models)
        health = Health(registry)
        for _ in range(3):
            await health.look()
        answer.set()
        while registry.unlisted:
            await health.look()
        answer.clear()
        for _ in range(2):
            await health.look()

    asyncio.run(look())
    records = [getattr(line, "record", {}) for line in caplog.records if line.getMessage() == "not listed"]
    assert records == [{"folder": "stalled", "error": "no answer within 0.5 seconds"}] * 2
