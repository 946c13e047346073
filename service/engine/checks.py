"""Checks of versions, each in a process of its own with limits of time and memory.

A version that runs forever, takes all memory, crashes the runtime, or lies on a volume that does not answer is a
version that fails. The server itself loads only versions that have passed.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import Any

from service.engine.check_process import CheckRequest
from service.engine.repository import StoredModel, parse_spec, stored_model
from service.engine.version_files import WAY_OUT
from service.errors import ModelError, UnreadableModelError
from service.log import log

PROGRAM = (sys.executable, "-P", "-m", "service.engine.check_process")
"""Command of the process that checks a version. The request is added as its last argument."""
END_SECONDS = 1.0
"""Seconds to wait for the end of a killed process. It takes longer if it waits for a volume that does not answer."""
RETRY_LIMITS = 5
"""Number of time limits after which a check is repeated that a slow volume or a shortage of memory has prevented."""


@dataclass(frozen=True)
class _Postponed:
    """A check that is not repeated before `until`, in seconds of the monotonic clock, or while its process runs."""

    error: str
    until: float
    process: Popen[bytes]

    @property
    def is_over(self) -> bool:
        """Whether the version may be checked again."""
        return time.monotonic() >= self.until and self.process.poll() is not None


class Checks:
    """Checks versions of the repository `root`; safe to share between threads.

    `seconds` is the time limit of one check. `memory_bytes` limits its memory, in addition to the program's own.
    """

    def __init__(self, root: Path, *, seconds: float, memory_bytes: int, program: tuple[str, ...] = PROGRAM) -> None:
        self.seconds = seconds
        self._root, self._memory_bytes, self._program = root, memory_bytes, program
        self._postponed: dict[tuple[str, str], _Postponed] = {}

    def check(self, name: str, version: str) -> StoredModel:
        """Return a version that has passed its check; raises ModelError."""
        postponed = self._postponed.get((name, version))
        if postponed is not None and not postponed.is_over:
            raise UnreadableModelError(postponed.error)
        process = self._start(name, version)
        try:
            output, _ = process.communicate(timeout=self.seconds)
        except TimeoutExpired as late:
            _kill(process)
            raise self._late(name, version, process, _messages(late.output or b"")) from None
        finally:
            if process.stdout is not None:
                process.stdout.close()
        return self._checked(name, version, process, _messages(output))

    def check_again(self, name: str) -> None:
        """Let the next checks of a model start at once, unless the process of an earlier check still runs."""
        for key, postponed in list(self._postponed.items()):
            if key[0] == name and postponed.process.poll() is not None:
                self._postponed.pop(key, None)

    def _start(self, name: str, version: str) -> Popen[bytes]:
        """Start a process that finds the modules of this one; raises UnreadableModelError."""
        request = CheckRequest(str(self._root), name, version, self._memory_bytes, os.getpid())
        path = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
        command, environment = [*self._program, json.dumps(asdict(request))], os.environ | {"PYTHONPATH": path}
        try:
            return Popen(  # noqa: S603 (this program)
                command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=environment
            )
        except OSError as error:
            raise UnreadableModelError(f"{name}/{version}: its check cannot be started: {error.strerror}") from None

    def _late(self, name: str, version: str, process: Popen[bytes], messages: list[dict[str, Any]]) -> ModelError:
        """Return the error of a check that took too long. Files that were not read in time may be read later."""
        if any("spec" in message for message in messages):
            return ModelError(
                f"{name}/{version}: expected its networks to load and to score a window within {self.seconds:g} "
                "seconds, got no scores; convert the model again, or raise check_seconds"
            )
        return self._postpone(
            name,
            version,
            process,
            f"expected its files to be read within {self.seconds:g} seconds, got no result; check whether the volume "
            "answers, or raise check_seconds",
        )

    def _postpone(self, name: str, version: str, process: Popen[bytes], reason: str) -> UnreadableModelError:
        """Postpone the next check of a version; returns the error to raise until then."""
        error, until = f"{name}/{version}: {reason}", time.monotonic() + RETRY_LIMITS * self.seconds
        self._postponed[name, version] = _Postponed(error, until, process)
        return UnreadableModelError(error)

    def _checked(self, name: str, version: str, process: Popen[bytes], messages: list[dict[str, Any]]) -> StoredModel:
        """Return the version from what its process has sent; raises ModelError."""
        for message in messages:
            if "log" in message:
                log.error("model", extra={"record": message["log"]})
        last = messages[-1] if messages else {}
        if "error" in last:
            raise (UnreadableModelError if last["unreadable"] else ModelError)(last["error"])
        if process.returncode == -signal.SIGKILL:  # by the system, if memory is short, or by a person
            reason = "expected a result of its check, got SIGKILL; check whether memory is short"
            raise self._postpone(name, version, process, reason)
        if not last.get("passed"):
            raise ModelError(
                f"{name}/{version}: expected a result of its check, got {_ending(process.returncode)}; {WAY_OUT}"
            )
        self._postponed.pop((name, version), None)
        read = next(message for message in messages if "spec" in message)
        return stored_model(name, version, self._root / name / version, parse_spec(read["spec"]), read["labels"])


def _kill(process: Popen[bytes]) -> None:
    """Kill a process. If it waits for a volume, it ends when the volume answers."""
    process.kill()
    with suppress(TimeoutExpired):
        process.wait(END_SECONDS)


def _messages(output: bytes) -> list[dict[str, Any]]:
    """Return the complete lines of a process's output."""
    return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith(b"\n")]


def _ending(status: int) -> str:
    """Return the name of the signal that ended a process, or its exit status."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"
