"""The attacks of siege.py on the HTTP port: requests and answers that are slow, endless, too large or malformed."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from attacks import DEADLINE, MIB, Attack, Target

INFER = "/v2/models/digits/infer"
LENGTHS = ("-1", "99999999999999999999", "1\r\nContent-Length: 2", "0x10", "5", "60000")
"""Lengths of bodies that are not the length of the body, which is that of `{}`."""
DEEPEST = 100_000
READY_SECONDS = 30.0
"""Seconds in which an answer must be ready that is then not taken."""
MOST_NUMBERS = 1 << 18
"""The largest number of numbers in JSON that the server reads."""


@contextmanager
def connected(target: Target) -> Iterator[socket.socket]:
    """Yield a connection to the HTTP port."""
    host, _, port = target.viewer.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        yield connection


def head(target: Target, path: str = INFER, *lines: str) -> bytes:
    """Return the head of a POST request with further lines."""
    token = [f"Authorization: Bearer {target.token}"] if target.token else []
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *token, *lines, "", ""]).encode()


def status_of(connection: socket.socket) -> str:
    """Return the status of an answer; "closed" if the server has closed the connection without an answer."""
    words = connection.recv(64).split(b" ", 2)
    return words[1].decode() if len(words) > 1 else "closed"


def posted(target: Target, body: bytes, *lines: str) -> str:
    """Send a whole request, and return the status of its answer."""
    with connected(target) as connection:
        connection.sendall(head(target, INFER, f"Content-Length: {len(body)}", *lines) + body)
        return status_of(connection)


def drip(connection: socket.socket, data: bytes) -> str:
    """Send a byte each second until the deadline, or until the server answers; returns the status."""
    connection.settimeout(1)
    end = time.monotonic() + DEADLINE
    for byte in data:
        if time.monotonic() > end:
            return "given up"
        connection.sendall(bytes([byte]))
        try:
            return status_of(connection)
        except TimeoutError:
            continue
    return "given up"


def slow_body(target: Target) -> str:
    """Send a body byte by byte."""
    with connected(target) as connection:
        connection.sendall(head(target, INFER, "Content-Length: 60000"))
        return drip(connection, b"{" + b" " * 100)


def slow_file(target: Target) -> str:
    """Send a file for the viewer's page byte by byte."""
    lines = ("Content-Type: application/octet-stream", "Content-Length: 60000")
    with connected(target) as connection:
        connection.sendall(head(target, "/viewer/score?model=digits", *lines))
        return drip(connection, bytes(100))


def slow_head(target: Target) -> str:
    """Send a head byte by byte."""
    with connected(target) as connection:
        return drip(connection, head(target))


def huge_headers(target: Target) -> str:
    """Send a head of a MiB."""
    with connected(target) as connection:
        connection.sendall(head(target, INFER, f"a: {'b' * MIB}"))
        return status_of(connection)


def endless_chunks(target: Target) -> str:
    """Send a body in chunks without an end, until the server has enough."""
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    with connected(target) as connection:
        connection.sendall(head(target, INFER, "Transfer-Encoding: chunked"))
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                connection.sendall(chunk)
            except OSError:  # the server has answered, and closed the connection
                return "closed"
    return "given up"


def wrong_lengths(target: Target) -> str:
    """Send bodies whose announced lengths are wrong, one after another; returns the last status."""
    status = ""
    for length in LENGTHS:
        with connected(target) as connection:
            connection.settimeout(0.3)
            connection.sendall(head(target, INFER, f"Content-Length: {length}") + b"{}")
            try:
                status = status_of(connection)
            except TimeoutError:  # the server waits for the rest
                status = "given up"
    return status


def numbers() -> bytes:
    """Return the JSON of an image with as many numbers as are allowed."""
    side = int(MOST_NUMBERS**0.5)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [side, side], "data": [0] * side**2}
    return json.dumps({"inputs": [tensor]}).encode()


def untaken_answer(target: Target) -> str:
    """Request an answer of 10 MB, and take nothing after its beginning; the status shows that it was ready."""
    side = 2000
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8).tobytes()
    tensor = {"name": "image", "datatype": "UINT8", "shape": [side, side], "parameters": {"binary_data_size": side**2}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, "stride": 4}}).encode()
    with connected(target) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = (f"Content-Length: {len(text) + len(pixels)}", f"Inference-Header-Content-Length: {len(text)}")
        connection.sendall(head(target, INFER, "Content-Type: application/octet-stream", *lines) + text + pixels)
        connection.settimeout(READY_SECONDS)
        status = status_of(connection)
        time.sleep(DEADLINE)
        return status


MANY, BOMB = numbers(), gzip.compress(bytes(60 * MIB))
HTTP_ATTACKS: dict[str, Attack] = {
    "HTTP: slow bodies": Attack(40, lambda _: slow_body),
    "HTTP: slow files": Attack(40, lambda _: slow_file),
    "HTTP: slow heads": Attack(40, lambda _: slow_head),
    "HTTP: huge headers": Attack(16, lambda _: huge_headers),
    "HTTP: endless chunks": Attack(16, lambda _: endless_chunks),
    "HTTP: wrong lengths": Attack(16, lambda _: wrong_lengths),
    "HTTP: deep JSON": Attack(16, lambda _: lambda target: posted(target, b"[" * DEEPEST)),
    "HTTP: many numbers": Attack(16, lambda _: lambda target: posted(target, MANY)),
    "HTTP: compressed text": Attack(16, lambda _: lambda target: posted(target, BOMB, "Content-Encoding: gzip")),
    "HTTP: answers not taken": Attack(4, lambda _: untaken_answer),
}
