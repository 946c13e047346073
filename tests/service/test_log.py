"""Every line of the log is JSON, also for messages of libraries."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from support.servers import wait_until

from service.log import MAX_UNWRITTEN, JsonFormatter, LineHandler, log

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


def lines_of(*messages: str) -> list[logging.LogRecord]:
    """Return records with these messages."""
    return [logging.LogRecord(log.name, logging.INFO, "", 0, message, None, None) for message in messages]


def test_lines_share_a_write() -> None:
    """Lines are written in their order; those that come within a short time are written together."""
    handler, writes = LineHandler(), list[str]()
    handler.setStream(SimpleNamespace(write=writes.append, flush=lambda: None))  # type: ignore[arg-type]
    for record in lines_of(*"abc"):
        handler.handle(record)
    handler.close()
    assert "".join(writes) == "a\nb\nc\n"
    assert len(writes) < 3


def test_a_reader_that_stalls_delays_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Lines are kept up to a limit while nobody reads, and dropped beyond it; a later line has their number."""
    readable, writable = os.pipe()
    handler, lines = LineHandler(), 3 * MAX_UNWRITTEN // 1000
    with os.fdopen(readable) as reader, ThreadPoolExecutor(1) as pool:
        with os.fdopen(writable, "w") as stream:
            handler.setStream(stream)
            for _ in range(lines):
                handler.handle(*lines_of("x" * 999))
            read = pool.submit(reader.readlines)
            handler.close()
        kept = read.result()
    assert {len(line) for line in kept} == {1000}
    assert MAX_UNWRITTEN <= 1000 * len(kept) < 2 * MAX_UNWRITTEN
    wait_until(lambda: bool(caplog.records))
    [record] = [line.record for line in caplog.records]  # type: ignore[attr-defined]
    assert record == {"lines": lines - len(kept)}
