"""Requests over HTTP that are refused: what is invalid, its status and its message."""

import asyncio
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
from support.paths import ROOT
from support.pictures import noise
from support.rest import HEADER_LENGTH, INFER, Body, ask, base64_request, request
from support.servers import Server, running

from service.limits import Limits
from service.rest.application import application

PIXELS = noise(90, 110, 1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model with an HTTP port."""
    with running(ROOT / "models", "--viewer", "127.0.0.1:0") as server:
        yield server


def broken(**changes: Any) -> dict[str, Any]:
    """Return a request whose tensor has other fields."""
    body = request(PIXELS)
    body["inputs"][0] |= changes
    return body


LONG = b'{"a": "' + b"a" * (17 << 20) + b'"}'
REFUSED: dict[str, tuple[Body, dict[str, str], int, str]] = {
    "no JSON": (b"{", {}, 400, "JSON: expected the JSON"),
    "no object": (b"[]", {}, 400, "JSON: expected an object, got a list"),
    "no UTF-8": (b'{"id": "\xff"}', {}, 400, "utf-8"),
    "half a letter": (b'{"id": "\\ud800"}', {}, 400, "surrogates not allowed"),
    "deep": (b"[" * 200_000, {}, 400, "deeper"),
    "NaN": (json.dumps(broken(datatype="FP32", data=[float("nan")])).encode(), {}, 400, "NaN, which is not JSON"),
    "too large": (broken(data=[256] * 9900), {}, 400, "expected values of UINT8, got one outside of its range"),
    "negative": (broken(data=[-1] * 9900), {}, 400, "outside of its range"),
    "huge": (broken(datatype="FP32", data=[1e39] * 9900), {}, 400, "outside of its range"),
    "too long": (b'{"a": ' + b"1" * 5000 + b"}", {}, 400, "integer string conversion"),
    "a fraction": (broken(data=[0.5] * 9900), {}, 400, "expected numbers of UINT8, got a number"),
    "booleans": (broken(data=[True] * 9900), {}, 400, "got a boolean"),
    "words": (broken(data=["1"] * 9900), {}, 400, "got a string"),
    "ragged": (broken(data=[[1], 2]), {}, 400, "expected lists of the same depth"),
    "too few": (broken(data=[1, 2]), {}, 400, r"expected 9900 bytes for \[1, 90, 110, 1\], got 2"),
    "shape": (broken(shape=["x"]), {}, 400, "request: expected values"),
    "long shape": (broken(shape=[1 << 62] * 9), {}, 400, "at most 8 lengths"),
    "no shape": (broken(shape=7), {}, 400, "shape: expected a list, got a number"),
    "datatype": (broken(datatype="FP16"), {}, 400, "expected UINT8, UINT16, INT16, FP32, BYTES, got 'FP16'"),
    "no base64": (broken(datatype="BYTES", shape=[1], data=["é"]), {}, 400, "base64"),
    "no image": (base64_request(b"no image"), {}, 400, "image: "),
    "parameter": (request(PIXELS, parameters={"stride": [8]}), {}, 400, "expected a boolean, a number or a string"),
    "number": (request(PIXELS, parameters={"stride": 1 << 70}), {}, 400, "request: expected values"),
    "flag": (request(PIXELS, parameters={"binary_data_output": 1}), {}, 400, "expected true or false, got '1'"),
    "option": (request(PIXELS, parameters={"mode": "shared"}), {}, 412, "shared"),
    "output": (request(PIXELS, outputs=[{"name": "x"}]), {}, 400, "outputs: expected scores and average"),
    "lying size": (broken(parameters={"binary_data_size": 9}), {}, 400, "expected at most the 0 bytes that follow"),
    "negative size": (broken(parameters={"binary_data_size": -1}), {}, 400, "bytes that follow, got -1"),
    "long header length": (b"{}", {HEADER_LENGTH: "9"}, 400, "expected at most 2, got 9"),
    "both": (broken(parameters={"binary_data_size": 0}), {}, 400, "expected data or binary_data_size, got both"),
    "no name": (
        {"inputs": [{"shape": [1], "datatype": "UINT8", "data": [1]}]}, {}, 400, "inputs: expected",
    ),
    "many outputs": (request(PIXELS, outputs=[{"name": "x"}] * 257), {}, 400, "outputs: expected at most 256, got 257"),
    "more bytes": (b"{}abc", {HEADER_LENGTH: "2"}, 400, "got 3 bytes more"),
    "header length": (b"{}", {HEADER_LENGTH: "-1"}, 400, "expected the size of the JSON"),
    "encoding": (b"{}", {"Content-Encoding": "br"}, 415, "expected identity or gzip or deflate, got 'br'"),
    "no gzip": (b"{}", {"Content-Encoding": "gzip"}, 400, "expected one stream of gzip or zlib"),
    "half a gzip": (gzip.compress(b"{}" * 999)[:-9], {"Content-Encoding": "gzip"}, 400, "ends early"),
    "two gzips": (gzip.compress(b"{}") * 2, {"Content-Encoding": "gzip"}, 400, "bytes after it"),
    "form": (b"{}", {"Content-Type": "text/plain"}, 415, "content-type: expected application/json"),
    "foreign picture": (b"{}", {"Sec-Fetch-Site": "cross-site"}, 403, "expected no request by a page of another site"),
    "foreign page": (b"{}", {"Origin": "https://example.org"}, 403, "origin: expected a page of"),
    "no page": (b"{}", {"Origin": "null"}, 403, "origin: expected a page of"),
    "foreign host": (b"{}", {"Host": "example.org"}, 421, "host: expected localhost"),
    "foreign name": (b"{}", {"Host": "127.0.0.1.example.org:80"}, 421, "host: expected localhost"),
    "odd host": (b"{}", {"Host": "[::1"}, 421, "host: expected localhost"),
    "many numbers": (b'{"a": [' + b"1," * (1 << 20) + b"1]}", {}, 413, "JSON: expected at most 262144 numbers"),
    "long header": (LONG, {HEADER_LENGTH: str(len(LONG))}, 413, "JSON: expected at most 16777216 bytes"),
    "long JSON": (LONG, {}, 413, "body: expected at most 16777216 bytes"),
}  # fmt: skip


REASONS = {
    400: ("OPTION_INVALID", "IMAGE_INVALID"),
    403: ("ACCESS_DENIED",),
    404: ("NOT_FOUND",),
    405: ("UNSUPPORTED",),
    412: ("CAPABILITY_MISSING",),
    413: ("LIMIT_EXCEEDED",),
    415: ("MEDIA_TYPE_UNSUPPORTED",),
    421: ("ACCESS_DENIED",),
}
"""The reasons that may come with a status."""


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(server: Server, case: str) -> None:
    """A request that cannot be answered is refused with a status and one line that names the reason."""
    body, headers, status, expected = REFUSED[case]
    reply = ask(server, INFER, body, headers)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert reply.document["reason"] in REASONS[status]
    assert re.search(expected, reply.document["error"]), reply.document
    assert "\n" not in reply.document["error"]
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/viewer", "GET", 404),
        ("/v2/", "GET", 404),
        ("/v2/models/cats", "GET", 404),
        ("/v2/models/digits/versions/9/infer", "POST", 404),
        (f"/v2/models/{'a' * 3000}", "GET", 400),
        ("/v2/models/..%2F..%2Fetc", "GET", 404),
        (INFER, "GET", 405),
        ("/v2", "DELETE", 405),
        ("/v2/models/digits", "OPTIONS", 405),
    ],
    ids=str,
)
def test_unknown_paths_and_methods(server: Server, path: str, method: str, status: int) -> None:
    """An unknown path, model, version or method has a status of its own and a message as JSON."""
    body = json.dumps(request(PIXELS)) if method == "POST" else None
    reply = ask(server, path, body, method=method)
    assert (reply.status, set(reply.document)) == (status, {"error", "reason"})
    assert ": expected" in reply.document["error"] or ": no " in reply.document["error"]
    assert reply.document["reason"] in REASONS[status]


def test_a_bug_of_the_page_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error of a path without a method, such as the page, has the form of all errors."""
    monkeypatch.setattr("service.rest.viewer.page_of", lambda *_: 1 / 0)
    servicer: Any = SimpleNamespace(methods=lambda: defaultdict(lambda: (None, None)))
    unused: Any = None
    app = application(servicer, unused, unused, unused, Limits(), is_local=True)
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    with pytest.raises(ZeroDivisionError):  # uvicorn logs it
        asyncio.run(app(scope, unused, send))
    assert sent[0]["status"] == 500
    expected = {"error": "a bug in the server; its log has the details", "reason": "INTERNAL"}
    assert json.loads(sent[1]["body"]) == expected
