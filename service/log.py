"""The log: JSON lines on standard error, for each request and for each event of the server."""

import json
import logging
import time
from typing import TextIO

log = logging.getLogger("fullconv")
REQUEST = "request"
"""The event of a line about an answered request."""


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
    """Writes lines to standard error. Lines about requests wait for the end of the event loop's iteration.

    Requests that end together then share one write. A write releases the interpreter lock: one for each request would
    also be a change of threads for each request.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line after those that wait, or let it wait."""
        try:
            self._waiting.append(self.format(record) + self.terminator)
            if record.msg != REQUEST or not self._flush_soon():
                self.flush()
        except Exception:  # as every handler of the standard library does
            self.handleError(record)

    def flush(self) -> None:
        """Write the lines that wait."""
        self.acquire()
        try:
            lines, self._waiting = self._waiting, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()
        finally:
            self.release()

    def _flush_soon(self) -> bool:
        """Let the event loop of this thread write the lines; returns False in a thread without an event loop."""
        import asyncio  # noqa: PLC0415 (only servers have event loops; it takes long to load)

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if len(self._waiting) == 1:
            loop.call_soon(self.flush)
        return True


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
