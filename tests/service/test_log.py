"""Every line of the log is JSON, also for messages of libraries."""

import asyncio
import io
import json
import logging
import subprocess
import sys

import pytest

from service.log import REQUEST, JsonFormatter, LineHandler, log

SPEAKERS = """
import logging, warnings
from service.log import log, log_to_stderr

log_to_stderr()
log.info("listening", extra={"record": {"address": "a"}})
logging.getLogger("asyncio").error("never\\nretrieved")
logging.getLogger("asyncio").warning("socket.send() raised exception.")
logging.getLogger("library").info("nothing")
for what in ("ExecuteBatchError", "ValueError"):
    logging.getLogger("grpc._cython.cygrpc").error("%s raised in core by servicer method [/Score]", what)
warnings.warn("old", DeprecationWarning)
"""


def test_warnings_of_libraries_are_json() -> None:
    """Warnings and errors of libraries are one JSON line each, with the logger's name; other messages are dropped.

    What gRPC and asyncio say about a client that has gone is dropped too.
    """
    command = [sys.executable, "-W", "always", "-c", SPEAKERS]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    own, error, grpc, warning = (json.loads(line) for line in lines)
    assert (own["event"], own["address"], "logger" in own) == ("listening", "a", False)
    assert (error["event"], error["level"], error["logger"]) == ("never\nretrieved", "ERROR", "asyncio")
    assert grpc["event"] == "ValueError raised in core by servicer method [/Score]"
    assert (warning["level"], warning["logger"]) == ("WARNING", "py.warnings")
    assert "DeprecationWarning: old" in warning["event"]


@pytest.mark.parametrize(
    "letter",
    ["\n", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\U000e0041", "\udcff"],
    ids=ascii,
)
def test_what_is_not_printable_is_escaped(letter: str) -> None:
    """Control, bidirectional, zero-width and undecodable characters are escaped in one line that holds the same text.

    Printable letters of any language stay as they are.
    """
    text = f'é小"{letter}\\.png'
    record = logging.LogRecord(log.name, logging.INFO, "", 0, text, None, None)
    record.record = {"error": text, text: [text]}
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert "é小" in line
    document = json.loads(line)
    assert (document["event"], document["error"], document[text]) == (text, text, [text])


class Writes(io.StringIO):
    """A stream that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        """Record a write."""
        self.texts.append(text)
        return len(text)


def lines_of(*messages: str) -> list[logging.LogRecord]:
    """Return records with these messages."""
    return [logging.LogRecord(log.name, logging.INFO, "", 0, message, None, None) for message in messages]


def test_lines_of_requests_share_a_write() -> None:
    """Lines about requests that end in one iteration of the event loop are written together, after it."""
    handler, first, second = LineHandler(), *lines_of(REQUEST, REQUEST)
    writes = Writes()
    handler.setStream(writes)

    async def end_together() -> list[str]:
        handler.handle(first)
        handler.handle(second)
        before = [*writes.texts]
        await asyncio.sleep(0)
        return before

    assert asyncio.run(end_together()) == []
    assert writes.texts == [f"{REQUEST}\n{REQUEST}\n"]


def test_other_lines_are_written_at_once() -> None:
    """A line about anything else is written at once, after the lines that wait; so is every line without a loop."""
    handler, writes = LineHandler(), Writes()
    handler.setStream(writes)

    async def end_then_stop() -> list[str]:
        for record in lines_of(REQUEST, "stopped"):
            handler.handle(record)
        return [*writes.texts]

    assert asyncio.run(end_then_stop()) == [f"{REQUEST}\nstopped\n"]
    handler.handle(*lines_of(REQUEST))
    assert writes.texts[1:] == [f"{REQUEST}\n"]
