"""Every line of the log is JSON, also for messages of libraries."""

import json
import subprocess
import sys

SPEAKERS = """
import logging, warnings
from service.log import log, log_to_stderr

log_to_stderr()
log.info("listening", extra={"record": {"address": "a"}})
logging.getLogger("asyncio").error("never\\nretrieved")
logging.getLogger("library").info("nothing")
for what in ("ExecuteBatchError", "ValueError"):
    logging.getLogger("grpc._cython.cygrpc").error("%s raised in core by servicer method [/Score]", what)
warnings.warn("old", DeprecationWarning)
"""


def test_warnings_of_libraries_are_json() -> None:
    """Warnings and errors of libraries are one JSON line each, with the logger's name; other messages are dropped.

    gRPC's error about a status for a client that has gone is dropped too.
    """
    command = [sys.executable, "-W", "always", "-c", SPEAKERS]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    own, error, grpc, warning = (json.loads(line) for line in lines)
    assert (own["event"], own["address"], "logger" in own) == ("listening", "a", False)
    assert (error["event"], error["level"], error["logger"]) == ("never\nretrieved", "ERROR", "asyncio")
    assert grpc["event"] == "ValueError raised in core by servicer method [/Score]"
    assert (warning["level"], warning["logger"]) == ("WARNING", "py.warnings")
    assert "DeprecationWarning: old" in warning["event"]
