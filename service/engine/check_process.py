"""The process that checks one version of one model: `python -m service.engine.check_process REQUEST`.

It reads the version's files, compares their hashes, loads each network, and scores a window with it. If a damaged or
hostile model runs forever, takes all memory or crashes the runtime, it does so in this process. The networks run on the
CPU, even if the server runs them on a GPU.

REQUEST is the JSON of `CheckRequest`. The process writes lines of JSON to standard output: {"spec": TEXT, "labels":
LIST} once the files are read, {"log": RECORD} for a record of the log, and as the last line {"passed": true} or
{"error": TEXT, "unreadable": BOOLEAN}.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format

from service import machine
from service.engine.executables import Threads
from service.engine.onnx_runtime import silence
from service.engine.repository import ModelRepository, StoredModel
from service.engine.session import Session
from service.errors import ModelError, UnreadableModelError
from service.limits import MIB
from service.log import log

NO_MEMORY = re.compile("bad_alloc|failed to allocate|cannot allocate|out of memory", re.IGNORECASE)
"""Matches the messages of failed allocations, for which ONNX Runtime has no error class."""

Send = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class CheckRequest:
    """The version to check, the memory for it, and the process that waits for the result."""

    root: str
    name: str
    version: str
    memory_bytes: int
    """Bytes of memory that the check may take in addition to the program's own."""
    parent: int
    """Number of the process that waits for the result."""


class _Forwarder(logging.Handler):
    """Sends the records of the log to the process that waits."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send the fields of a record."""
        self._send({"log": getattr(record, "record", {})})


def main() -> None:
    """Check a version, and send the result."""
    request = CheckRequest(**json.loads(sys.argv[1]))
    machine.end_with_parent(request.parent)
    send = _take_standard_output()
    log.addHandler(_Forwarder(send))
    log.propagate = False
    machine.lower_priority()
    silence()
    machine.limit_memory(request.memory_bytes)
    try:
        _check(request, send)
    except Exception as error:  # a hostile file makes libraries raise errors of any class
        send(_failure(error, request))
    else:
        send({"passed": True})


def _check(request: CheckRequest, send: Send) -> None:
    """Read a version, load its networks and run them; raises ModelError."""
    model = ModelRepository(Path(request.root)).open(request.name, request.version)
    send({"spec": json_format.MessageToJson(model.spec, indent=None), "labels": model.labels})
    for position in range(len(model.files)):
        _run(model, position)


def _run(model: StoredModel, position: int) -> None:
    """Load one network and score a window; raises ModelError."""
    Session(model, position, threads=Threads(1)).warm()


def _failure(error: Exception, request: CheckRequest) -> dict[str, object]:
    """Return the message for a check that has failed."""
    model = f"{request.name}/{request.version}"
    text = str(error) if isinstance(error, ModelError) else f"{model}: cannot be checked: {error!r}"
    if _is_for_memory(error):
        text = (
            f"{model}: expected its check to need at most {request.memory_bytes // MIB} MiB of memory, got more; raise "
            "check_mib, or convert the model again"
        )
    return {"error": text, "unreadable": isinstance(error, UnreadableModelError)}


def _is_for_memory(error: BaseException | None) -> bool:
    """Return whether a failed allocation has caused an error."""
    if error is None or isinstance(error, MemoryError):
        return error is not None
    return NO_MEMORY.search(str(error)) is not None or _is_for_memory(error.__context__)


def _take_standard_output() -> Send:
    """Return a function that writes lines to standard output. The output of native code no longer arrives there."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(line: dict[str, object]) -> None:
        output.write(json.dumps(line) + "\n")
        output.flush()

    return send


if __name__ == "__main__":
    main()
