"""The log: JSON lines on standard error, for each request and for each event of the server."""

import json
import logging
import time

log = logging.getLogger("fullconv")


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


def _escape(text: str) -> str:
    """Return JSON of the same value in which each character that is not printable is an escape sequence.

    Text from clients and names of files may hold control characters, marks that change the direction of writing, and
    characters without width, which would make a line look different from what it holds. JSON itself allows them.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Drop gRPC's error that a status could not be sent to a disconnected client: the request's line records it."""
    return "ExecuteBatchError" not in record.getMessage()


def log_to_stderr() -> None:
    """Send this program's log, and the warnings and errors of libraries, to standard error."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_wanted)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(capture=True)
    log.setLevel(logging.INFO)
