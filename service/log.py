"""JSON lines on standard error, one for each request and for what happens to the server."""

import json
import logging
import time

log = logging.getLogger("fullconv")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, and what the event's record holds; who speaks, if it is a library."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line; a traceback becomes a field."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}.{int(record.msecs):03}Z", "level": record.levelname, "event": record.getMessage()}
        line |= getattr(record, "record", {}) if record.name == log.name else {"logger": record.name}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _is_heard(record: logging.LogRecord) -> bool:
    """Leave out that gRPC could not tell a client that has gone how its call ended: the request's line has it."""
    return "ExecuteBatchError" not in record.getMessage()


def log_to_stderr() -> None:
    """Send this program's log to standard error, and what libraries warn of."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_heard)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(capture=True)
    log.setLevel(logging.INFO)
