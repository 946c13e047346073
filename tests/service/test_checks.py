"""Checks of versions in processes of their own, with limits of time and memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from select import select
from threading import Event
from typing import Any, ClassVar

import pytest
from support.hostile_models import copy_version, read_forever, run_forever, take_memory
from support.servers import wait_until

from service.engine import checks
from service.engine.checks import Checks
from service.engine.loader import Loader, LoadOptions
from service.engine.registry import Registry
from service.engine.repository import ModelRepository, StoredModel
from service.engine.session import Session
from service.errors import ModelError, UnreadableModelError
from service.limits import MIB

MINUTE, MEMORY = 60.0, 256 * MIB


def checks_of(root: Path, *, seconds: float = MINUTE, code: str = "") -> Checks:
    """Return checks of a repository, optionally by another program."""
    program = (sys.executable, "-c", code) if code else checks.PROGRAM
    return Checks(root, seconds=seconds, memory_bytes=MEMORY, program=program)


def refusal(root: Path, *, seconds: float = MINUTE, code: str = "") -> ModelError:
    """Return the error of the check of version 1 of the model `hostile`."""
    with pytest.raises(ModelError) as refused:
        checks_of(root, seconds=seconds, code=code).check("hostile", "1")
    return refused.value


def test_a_version_that_passes_is_what_its_files_say(tmp_path: Path) -> None:
    """A check in another process returns the same as reading the files in this one, within 256 MiB."""
    copy_version(tmp_path / "digits" / "1")
    checked, read = checks_of(tmp_path).check("digits", "1"), ModelRepository(tmp_path).open("digits", "1")
    assert (checked.name, checked.version, checked.folder) == (read.name, read.version, read.folder)
    assert (checked.spec, checked.labels) == (read.spec, read.labels)
    assert (checked.vertical, checked.horizontal) == (read.vertical, read.horizontal)


def test_damaged_files_have_the_errors_of_this_process(tmp_path: Path) -> None:
    """The check in another process fails with the message that reading the files in this process gives."""
    folder = copy_version(tmp_path / "hostile" / "1")
    (folder / "labels.txt").write_text("a\n")
    with pytest.raises(ModelError) as expected:
        ModelRepository(tmp_path).open("hostile", "1")
    assert str(refusal(tmp_path)) == str(expected.value)


@pytest.mark.slow
def test_a_network_that_runs_forever_is_refused(tmp_path: Path) -> None:
    """A network with an endless loop fails permanently after the time limit."""
    copy_version(tmp_path / "hostile" / "1", run_forever)
    error = refusal(tmp_path, seconds=10)
    assert type(error) is ModelError
    assert str(error).startswith("hostile/1: expected its networks to load and to score a window within 10 seconds, ")


@pytest.mark.parametrize(
    ("elements", "times"), [(5 << 40, 1), (1 << 28, 1), (1 << 27, 64)], ids=["20 TB", "1 GB", "32 GB of constants"]
)
def test_a_network_that_takes_all_memory_is_refused(
    tmp_path: Path, elements: int, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A network whose values or folded constants exceed the memory limit fails, and the log has the runtime's error."""
    copy_version(tmp_path / "hostile" / "1", take_memory(elements, times))
    error = refusal(tmp_path)
    assert type(error) is ModelError
    assert str(error).startswith(
        "hostile/1: expected its check to need at most 256 MiB of memory, got more; raise check_mib"
    )
    (record,) = caplog.records
    assert record.getMessage() == "model"
    assert "alloc" in record.record["error"]  # type: ignore[attr-defined]


class Recorded(subprocess.Popen[bytes]):
    """A process that is noted when it is started."""

    started: ClassVar[list["Recorded"]]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.started.append(self)


class Unending(Recorded):
    """A process that no signal ends, like a process that waits for a volume."""

    def kill(self) -> None:
        """Do nothing."""


@pytest.fixture(params=[Recorded], ids=[""])
def started(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """The processes of the checks of this test; the parameter is their class."""
    monkeypatch.setattr(checks, "Popen", request.param)
    request.param.started = []
    return request.param.started  # type: ignore[no-any-return]


def test_files_that_take_forever_to_read_are_tried_later(tmp_path: Path, started: list[Recorded]) -> None:
    """A version of a terabyte fails, is not read again at once, and is read again on request."""
    folder = copy_version(tmp_path / "hostile" / "1")
    read_forever(folder)
    limited, errors = checks_of(tmp_path, seconds=2), set()
    for number in range(4):
        if number == 3:
            assert started[0].wait(60) == -signal.SIGKILL
            limited.check_again("hostile")
        with pytest.raises(UnreadableModelError) as refused:
            limited.check("hostile", "1")
        errors.add(str(refused.value))
    (error,) = errors
    assert error.startswith("hostile/1: expected its files to be read within 2 seconds, got no result; ")
    assert [process.wait(60) for process in started] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("started", [Unending], indirect=True, ids=[""])
def test_a_process_that_cannot_be_ended_holds_up_nobody(
    tmp_path: Path, started: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a process goes on after it was killed, its version fails, and no further process is started for it."""
    monkeypatch.setattr(checks, "END_SECONDS", 0.01)
    limited = checks_of(tmp_path, seconds=1, code="import time; time.sleep(1000)")
    for _ in range(3):
        with pytest.raises(UnreadableModelError, match="hostile/1: expected its files to be read"):
            limited.check("hostile", "1")
        limited.check_again("hostile")
    (process,) = started
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (
            f"import os; os.kill(os.getpid(), {signal.SIGSEGV:d})",
            ModelError,
            "expected a result of its check, got SIGSEGV",
        ),
        ("raise SystemExit(7)", ModelError, "expected a result of its check, got status 7"),
        (f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})", UnreadableModelError, "check whether memory is short"),
    ],
    ids=["crash", "end", "killed"],
)
def test_a_process_that_ends_without_a_result_is_a_failure(
    tmp_path: Path, code: str, kind: type[ModelError], text: str
) -> None:
    """A crash of the runtime is the failure of its version; a version whose check was killed is tried later."""
    error = refusal(tmp_path, code=code)
    assert type(error) is kind
    assert text in str(error)


def test_a_process_that_cannot_be_started_is_a_failure_for_now(tmp_path: Path) -> None:
    """If no process can be started, the version fails until another look at the disk."""
    limited = Checks(tmp_path, seconds=MINUTE, memory_bytes=MEMORY, program=(str(tmp_path / "absent"),))
    with pytest.raises(UnreadableModelError, match="digits/1: its check cannot be started: No such file"):
        limited.check("digits", "1")


ENDING = """
import os, sys
from pathlib import Path
from threading import Thread
from service.engine import checks

class Printed(checks.Popen):
    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        print(self.pid, flush=True)

checks.Popen = Printed
endless = checks.Checks(Path(sys.argv[1]), seconds=1000, memory_bytes=1 << 28)
Thread(target=endless.check, args=("hostile", "1")).start()
sys.stdin.read()
os._exit(0)
"""
"""A program that checks a version, prints the number of the process that does so, and ends with its standard input."""


def test_checks_end_with_the_process_that_waits(tmp_path: Path) -> None:
    """The process of a check is killed by the system when the process that has started it ends."""
    copy_version(tmp_path / "hostile" / "1", run_forever)
    command = [sys.executable, "-c", ENDING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdin is not None
        assert waiting.stdout is not None
        with os.fdopen(os.pidfd_open(int(waiting.stdout.readline()))) as checking:
            assert not select([checking], [], [], 0)[0]
            waiting.stdin.close()
            assert waiting.wait(60) == 0
            assert select([checking], [], [], 60)[0]


def test_only_what_has_passed_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with checks makes no session of a version that fails, and serves versions that pass."""
    copy_version(tmp_path / "digits" / "1")
    copy_version(tmp_path / "digits" / "2", take_memory(5 << 40))
    loaded: list[str] = []
    real = Loader.session

    def session(loader: Loader, model: StoredModel, position: int, *, reference: bool) -> Session:
        loaded.append(model.version)
        return real(loader, model, position, reference=reference)

    monkeypatch.setattr(Loader, "session", session)
    registry = Registry(tmp_path, warm=True, options=LoadOptions(checks=checks_of(tmp_path)))
    assert registry.get("digits")[1].version == "1"
    assert "expected its check to need at most 256 MiB" in registry.state("digits", "2")[1]
    assert loaded == ["1"]


def test_a_model_that_does_not_load_in_time_fails_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a version has passed its check and loading it hangs, it fails, and the lower version serves."""
    for version in ("1", "2"):
        copy_version(tmp_path / "digits" / version)
    answer, real = Event(), Session.warm

    def warm(session: Session) -> None:
        if session.model.version == "2":
            answer.wait()
        real(session)

    monkeypatch.setattr(Session, "warm", warm)
    monkeypatch.setattr(Checks, "check", lambda _, *version: ModelRepository(tmp_path).open(*version))
    registry = Registry(tmp_path, warm=True, options=LoadOptions(checks=checks_of(tmp_path, seconds=1)))
    assert registry.get("digits")[1].version == "1"
    assert registry.state("digits", "2")[1] == "digits/2: cannot be loaded: no answer within 1 seconds"
    answer.set()
    wait_until(lambda: not registry.refresh(at_once=True) and registry.get("digits")[1].version == "2")
