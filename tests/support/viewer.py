"""Requests of the viewer's page to a server, and what they answer."""

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from support.rest import Reply, ask
from support.servers import Server

BINARY = {"Content-Type": "application/octet-stream"}


def score(server: Server, file: bytes | Iterator[bytes], headers: dict[str, str] | None = None, **query: Any) -> Reply:
    """Send a file."""
    return ask(server, path_of(**query), file, BINARY | (headers or {}))


def path_of(**query: Any) -> str:
    """Return the path of a request for a score."""
    return f"/viewer/score?{urlencode({'model': 'digits'} | query, doseq=True)}"


def lines_of(reply: Reply) -> list[dict[str, Any]]:
    """Return the lines of an answer."""
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.body.splitlines()]


def unpacked(rows: list[dict[str, Any]], cols: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the top classes (rows, cols), and the values (1 + planes, rows, cols), of consecutive rows."""
    tops, values, stop = [], [], 0
    for each in rows:
        assert each["first"] == stop
        stop += each["count"]
        tops.append(np.frombuffer(b64decode(each["top"]), "<u4").reshape(-1, cols))
        stored = np.frombuffer(b64decode(each["values"]), "<u2").reshape(-1, each["count"], cols)
        values.append(each["low"] + (each["high"] - each["low"]) * stored / 0xFFFF)
    return np.concatenate(tops), np.concatenate(values, axis=1)
