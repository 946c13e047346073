"""How many windows a batch has, and how many batches run at the same time, is measured once for each machine."""

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.paths import ROOT

from service import machine
from service.engine.cancellation import Cancellation
from service.engine.loader import LoadOptions
from service.engine.registry import Registry
from service.engine.repository import ModelRepository
from service.engine.run_sizes import run_sizes
from service.engine.session import RunSizes, Session

MODELS = ROOT / "models"
WINDOW = 70 * 70


class Simulated(Session):
    """A session whose run times follow a rule: for a run, for each window, and for each window beyond a cache."""

    per_run, per_window, beyond, cached, exclusive = 0.0005, 0.0001, 0.0, 8, True
    """Seconds, number of windows that fit into the cache, and whether only one run makes progress at a time."""
    runs = 0
    lock = Lock()

    def score(self, tiles: Sequence[Any], _: Cancellation | None = None) -> NDArray[np.float32]:
        """Wait as long as the rule says."""
        self.runs += 1
        seconds = self.per_run + self.per_window * len(tiles) + self.beyond * max(0, len(tiles) - self.cached)
        if self.exclusive:
            with self.lock:
                time.sleep(seconds)
        else:
            time.sleep(seconds)
        return np.zeros((len(tiles), 1, 1, 11), np.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep measurements in a directory of the test, on a machine with several processors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "cpus", lambda: 4)


def simulated(**rule: Any) -> Simulated:
    """Return a session with a rule."""
    session = Simulated(ModelRepository(MODELS).open("digits", "1"))
    vars(session).update(rule)
    return session


def test_batches_fill_the_cache() -> None:
    """Runs cost time, so that a batch is large; windows beyond the cache cost more, so that it is not larger."""
    assert run_sizes(simulated(per_run=0.004, beyond=0.003), 4).pixels == 8 * WINDOW
    assert run_sizes(simulated(per_run=0.04, per_window=0.001), 5).pixels == 32 * WINDOW


def test_slow_windows_are_measured_alone() -> None:
    """A network whose window takes long is not measured in large batches."""
    session = simulated(per_window=0.06)
    session._rate = session._multiply_adds / 0.06  # noqa: SLF001 (as `warm` sets it)
    assert run_sizes(session, 4) == RunSizes(WINDOW)
    assert session.runs < 12


def test_concurrent_runs_need_a_gain() -> None:
    """Runs that do not disturb each other are concurrent; runs that wait for each other are not."""
    assert run_sizes(simulated(exclusive=False, per_run=0.004), 4).concurrent == 8
    assert run_sizes(simulated(per_run=0.004), 5).concurrent == 1


def test_one_processor_runs_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is concurrent on one processor."""
    monkeypatch.setattr(machine, "cpus", lambda: 1)
    assert run_sizes(simulated(exclusive=False), 1).concurrent == 1


def test_measurements_are_kept() -> None:
    """A second session reads what the first has measured; another number of threads is another measurement."""
    first, second, third = simulated(), simulated(), simulated()
    expected = run_sizes(first, 4)
    assert run_sizes(second, 4) == expected
    assert not second.runs
    run_sizes(third, 2)
    assert third.runs


@pytest.mark.parametrize("kept", ["", "[]", '{"pixels": 0, "concurrent": 1}', '{"pixels": "9", "concurrent": 1}', "{}"])
def test_damaged_measurements_are_made_again(kept: str, tmp_path: Path) -> None:
    """A file that is damaged or has impossible numbers counts as none."""
    run_sizes(simulated(), 4)
    [file] = (tmp_path / "cache" / "fullconv" / "runs").iterdir()
    file.write_text(kept)
    session = simulated()
    run_sizes(session, 4)
    assert session.runs


def test_servers_measure_and_others_do_not() -> None:
    """A registry measures only if it is told to: scores in other processes do not depend on measurements."""
    for measures in (True, False):
        registry = Registry(MODELS, warm=True, options=LoadOptions(measures_runs=measures))
        served, model = registry.get("digits", "1")
        assert (registry.session(served, model, 0).run_sizes is not None) is measures


def test_real_sessions_are_measured() -> None:
    """The digits network gets a batch within what was tried."""
    session = Session(ModelRepository(MODELS).open("digits", "1"))
    session.warm()
    found = run_sizes(session, 4)
    assert found.pixels // WINDOW in (1, 2, 4, 8, 16, 32)
    assert found.concurrent in (1, 2, 4, 8)
