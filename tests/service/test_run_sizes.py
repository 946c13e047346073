"""How many windows a batch has, and whether each run has a thread of its own, is measured once for each machine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.paths import ROOT
from support.servers import running

from fullconv import Client, Scorer
from service.engine import run_sizes as measurement
from service.engine import timing
from service.engine.backend import Backend
from service.engine.cancellation import Cancellation
from service.engine.executables import Threads
from service.engine.repository import ModelRepository, StoredModel
from service.engine.run_sizes import run_sizes
from service.engine.session import RunSizes, Session, SingleRuns

MODELS = ROOT / "models"
PAGE = MODELS / "digits" / "page.png"
WINDOW = 70 * 70


class Clock:
    """A clock that a simulated session advances."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now


class Simulated(Session):
    """A session whose run times follow a rule: for a run, for each window, and for each window beyond a cache."""

    per_run, per_window, beyond, cached = 0.0005, 0.0001, 0.0, 8
    """Seconds, and the number of windows that fit into the cache."""
    runs, clock = 0, Clock()

    def score(
        self, tiles: Sequence[Any], _: Cancellation | None = None, *, single: bool = False
    ) -> NDArray[np.float32]:
        """Advance the clock as the rule says."""
        assert not single
        self.runs += 1
        beyond = max(0, len(tiles) - self.cached)
        self.clock.now += self.per_run + self.per_window * len(tiles) + self.beyond * beyond
        return np.zeros((len(tiles), 1, 1, 11), np.float32)


class Meeting(Session):
    """A session whose runs in one thread end only when as many are going on as `barrier` has parties."""

    barrier = Barrier(4)

    def score(
        self, tiles: Sequence[Any], _: Cancellation | None = None, *, single: bool = False
    ) -> NDArray[np.float32]:
        """Wait for the other runs."""
        if single:
            self.barrier.wait(timeout=60)
        return np.zeros((len(tiles), 1, 1, 11), np.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep measurements in a directory of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digits() -> StoredModel:
    """Return the shipped model."""
    return ModelRepository(MODELS).open("digits", "1")


def measured(session: Session, monkeypatch: pytest.MonkeyPatch, threads: int = 1) -> RunSizes:
    """Return the sizes for a session, by the clock that simulated sessions advance."""
    with monkeypatch.context() as patched:
        if isinstance(session, Simulated):
            patched.setattr(timing, "time", session.clock)
        found = run_sizes(session, threads)
    assert found is not None
    return found


def simulated(**rule: Any) -> Simulated:
    """Return a session with a rule."""
    session = Simulated(digits())
    vars(session).update({"clock": Clock()} | rule)
    return session


@pytest.mark.parametrize(
    ("rule", "batch"),
    [
        ({"per_run": 0.004, "beyond": 0.003}, 8),
        ({"per_run": 0.04, "per_window": 0.001}, 32),
        ({"per_run": 0.0, "per_window": 0.001, "beyond": 0.0002}, 8),
        ({"per_run": 0.0, "per_window": 0.001}, 32),
    ],
    ids=["cache", "long runs", "larger costs nothing up to the cache", "equal"],
)
def test_batches_fill_the_cache(rule: dict[str, Any], batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs cost time, so that a batch is large; windows beyond the cache cost more, so that it is not larger."""
    assert measured(simulated(**rule), monkeypatch) == RunSizes(batch * WINDOW)


@pytest.mark.parametrize("limit", ["seconds", "bytes"])
def test_large_batches_are_not_measured(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose window takes long, or much memory, is measured with one window alone."""
    session = simulated(per_window=0.06)
    if limit == "seconds":
        session._rate = session._multiply_adds / 0.06  # noqa: SLF001 (as `warm` sets it)
    else:
        session.bytes_per_pixel = 200_000.0
    assert measured(session, monkeypatch) == RunSizes(WINDOW)
    assert session.runs == 1 + 3


def meeting(monkeypatch: pytest.MonkeyPatch, of_run: float, of_four: Mapping[int, float]) -> Meeting:
    """Return a session, and let its measurements give the seconds of a run of eight windows in all threads.

    `of_four` has the seconds of the runs of four threads, by the windows of each run.
    """

    def times(runs: Mapping[int, Callable[[], object]]) -> dict[int, list[float]]:
        for run in runs.values():
            run()
        if runs.keys() == {8}:
            return {8: [of_run]}
        return {count: [of_four[count] if count else measurement.RUNS * of_run] for count in runs}

    monkeypatch.setattr(measurement, "alternating_times", times)
    monkeypatch.setattr(measurement, "BATCHES", (8,))
    return Meeting(digits())


@pytest.mark.parametrize(
    ("of_four", "single"),
    [
        ({1: 0.024, 8: 0.300}, SingleRuns(WINDOW, 4, 3)),
        ({1: 0.024, 8: 0.185}, SingleRuns(8 * WINDOW, 4, 3)),
        ({1: 0.028, 8: 0.232}, SingleRuns(WINDOW, 4, 4)),
        ({1: 0.030, 8: 0.240}, None),
        ({1: 0.050, 8: 0.300}, None),
    ],
    ids=["faster", "equal to a larger batch", "large enough", "too small a gain", "slower"],
)
def test_runs_in_one_thread_need_a_gain(
    of_four: Mapping[int, float], single: SingleRuns | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs in one thread each are chosen if they give more windows per second, of which four threads do four each.

    Three or four of them, as the gain says, compute more together than one after the other in all threads.
    """
    session = meeting(monkeypatch, 0.016, of_four)
    found = measured(session, monkeypatch, threads=4)
    assert found == RunSizes(8 * WINDOW, single=single)
    assert session.barrier.n_waiting == 0
    again = Meeting(digits())
    assert measured(again, monkeypatch, threads=4) == found


@pytest.mark.parametrize("change", ["backend", "rate", "bytes", "threads", "slots"])
def test_few_runs_are_measured_in_one_thread(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in one thread are not measured if they cannot be used, or would take too long or too much memory."""
    session = meeting(monkeypatch, 0.016, {})
    monkeypatch.setattr(measurement, "_best_batch", lambda _: (8, True))
    if change == "backend":
        session.backend = Backend("openvino", "bf16")
    elif change == "rate":
        session._rate = session._multiply_adds / 0.03  # noqa: SLF001 (as `warm` sets it)
    elif change == "bytes":
        session.bytes_per_pixel = measurement.MAX_RUN_BYTES / (3 * WINDOW)
    found = run_sizes(session, 1 if change == "threads" else 4, singles=change != "slots")
    assert found == RunSizes(8 * WINDOW)


def test_runs_in_one_thread_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in one thread has no more windows than it is predicted to score in MAX_RUN_SECONDS."""
    session = meeting(monkeypatch, 0.016, {1: 0.02, 3: 0.04})
    monkeypatch.setattr(measurement, "_best_batch", lambda _: (8, True))
    session._rate = session._multiply_adds * 4 * 3.5 / measurement.MAX_RUN_SECONDS  # noqa: SLF001 (as `warm` sets it)
    assert measured(session, monkeypatch, threads=4).single == SingleRuns(3 * WINDOW, 4, 2)


def test_files_stay_loaded_for_runs_that_are_used() -> None:
    """A session frees the file that was loaded to measure runs in one thread, unless they are faster."""
    session = Session(digits(), threads=Threads(2))
    size = session.weights_bytes
    session.score([session.grey_window()], single=True)
    assert session.weights_bytes == 2 * size
    session.use_run_sizes(RunSizes(WINDOW))
    assert session.weights_bytes == size
    session.use_run_sizes(RunSizes(WINDOW, single=SingleRuns(WINDOW, 2)))
    assert session.weights_bytes == 2 * size


def test_gpus_are_not_measured() -> None:
    """Nothing is measured on a GPU, where each number of windows may need another engine."""
    session = simulated()
    session.backend = Backend("tensorrt", "fp16")
    assert run_sizes(session, 4) is None
    assert not session.runs


def test_a_failure_is_no_measurement(caplog: pytest.LogCaptureFixture) -> None:
    """A session that cannot run so many windows is served as if it had not been measured, and the log says why."""
    session = simulated(per_run="no number")
    assert run_sizes(session, 4) is None
    assert [record.message for record in caplog.records] == ["runs"]


def test_measurements_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second session reads what the first has measured; another number of threads is another measurement."""
    monkeypatch.setattr(measurement, "_single_counts", lambda *_: [])
    first, second, third = simulated(), simulated(), simulated()
    assert measured(second, monkeypatch) == measured(first, monkeypatch)
    assert [bool(each.runs) for each in (first, second)] == [False, True]
    measured(third, monkeypatch, threads=2)
    assert third.runs


def test_disturbed_measurements_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the same runs take different times, the next session is measured again."""
    first, second = simulated(), simulated()
    monkeypatch.setattr(Clock, "monotonic", lambda clock: clock.now**2)
    measured(first, monkeypatch)
    measured(second, monkeypatch)
    assert second.runs


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "[]",
        "{}",
        '{"pixels": 9, "concurrent": 1}',
        '{"pixels": 0, "single_pixels": 0, "fewest": 0}',
        '{"pixels": "9", "single_pixels": 0, "fewest": 0}',
        '{"pixels": 9, "single_pixels": 9, "fewest": 2}',
    ],
)
def test_damaged_measurements_are_made_again(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is damaged or has impossible numbers counts as none."""
    measured(simulated(), monkeypatch)
    [file] = (tmp_path / "cache" / "fullconv" / "runs").iterdir()
    file.write_text(kept)
    session = simulated()
    measured(session, monkeypatch)
    assert session.runs


def test_only_servers_measure(tmp_path: Path) -> None:
    """A server measures a model when it loads it; in-process scores do not depend on measurements."""
    with Scorer(MODELS) as scorer:
        scorer.score(PAGE, model="digits")
    assert not (tmp_path / "cache" / "fullconv" / "runs").exists()
    with running(MODELS) as server, Client(server.address) as client:
        client.score(PAGE, model="digits")
    [record] = server.events("runs")
    assert (record["model"], record["version"], record["file"]) == ("digits", "1", "model.onnx")
    assert record["windows"] >= 1
    assert ("single_windows" in record) is ("single_from" in record)
    assert record["kept"] in (True, False)


def test_real_sessions_are_measured() -> None:
    """The digits network can be measured, and the measurement stands for whole windows."""
    session = Session(digits())
    session.warm()
    found = run_sizes(session, 4)
    assert found is not None
    assert found.pixels % WINDOW == 0


def test_another_release_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement is of one release, also where the package is not installed."""
    first, second = simulated(), simulated()
    measured(first, monkeypatch)
    monkeypatch.setattr("service.engine.measurement_cache.__version__", "0.0.9")
    measured(second, monkeypatch)
    assert second.runs
