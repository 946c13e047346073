"""The log: JSON lines on standard error, for each request and for each event of the server."""

import json
import logging
import time
from contextlib import suppress
from queue import SimpleQueue
from threading import Condition, Thread
from typing import TextIO

log = logging.getLogger("fullconv")
REQUEST = "request"
"""The event of a line about an answered request."""
MAX_UNWRITTEN = 1 << 20
"""Characters of the log that wait for a slow reader; further lines are dropped, and counted in a later line."""
GATHER_SECONDS = 0.01
"""Time in which further lines are gathered for one write, so that the thread is rarely woken."""
CLOSE_SECONDS = 1.0
"""Longest time for which the end of the process waits for the log to be written."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line: time, level, event, and the fields of `record.record`.

    Records of libraries have their logger's name instead of these fields.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback becomes the field "traceback"."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}.{int(record.msecs):03}Z", "level": record.levelname, "event": record.getMessage()}
        line |= getattr(record, "record", {}) if record.name == log.name else {"logger": record.name}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _escape(json.dumps(line, ensure_ascii=False))


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to standard error in a thread of its own: a reader that stalls delays neither requests nor the end.

    The thread gathers lines for one write: it would otherwise be woken for each request.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines = SimpleQueue[str]()
        self._state = Condition()
        self._unwritten = self._dropped = 0
        """Characters that the thread has not yet written, and lines that were dropped because these were too many."""
        self._thread: Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line to the thread, or drop it if the reader has stalled."""
        try:
            line = self.format(record) + self.terminator
        except Exception:  # as every handler of the standard library does
            self.handleError(record)
            return
        if self._thread is None:
            self._thread = Thread(target=self._write, name="log", daemon=True)
            self._thread.start()
        with self._state:
            if self._unwritten > MAX_UNWRITTEN:
                self._dropped += 1
                return
            self._unwritten += len(line)
        self._lines.put(line)

    def close(self) -> None:
        """Wait until all lines are written, a second at the most."""
        with self._state:
            self._state.wait_for(lambda: not self._unwritten, CLOSE_SECONDS)
        super().close()

    def _write(self) -> None:
        """Write all lines that arrive."""
        while True:
            lines = [self._lines.get()]
            time.sleep(GATHER_SECONDS)
            while not self._lines.empty():  # no other thread takes lines
                lines.append(self._lines.get())
            text = "".join(lines)
            with suppress(OSError, ValueError):  # the reader has closed the stream
                self.stream.write(text)
                self.stream.flush()
            with self._state:
                self._unwritten -= len(text)
                dropped, self._dropped = self._dropped, 0
                self._state.notify_all()
            if dropped:
                log.warning("lines dropped", extra={"record": {"lines": dropped}})


def _escape(text: str) -> str:
    """Return JSON of the same value in which each character that is not printable is an escape sequence.

    Text from clients and names of files may hold control characters, marks that change the direction of writing, and
    characters without width, which would make a line look different from what it holds. JSON itself allows them.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Drop what gRPC and asyncio say about clients that have disconnected: the request's line records it."""
    return not any(text in record.getMessage() for text in ("ExecuteBatchError", "socket.send() raised exception"))


def log_to_stderr() -> None:
    """Send this program's log, and the warnings and errors of libraries, to standard error."""
    for name in ("grpc._cython.cygrpc", "asyncio"):
        logging.getLogger(name).addFilter(_is_wanted)
    handler = LineHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(capture=True)
    log.setLevel(logging.INFO)
