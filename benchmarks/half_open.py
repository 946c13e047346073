"""Measures the memory that a peer can make a server hold by leaving things open.

    python benchmarks/half_open.py [--connections 200]

Each row is a server of its own, which knows one token. In the first rows the peer has no token, opens so many
connections, and leaves open on each what the row names. In the last rows it has the token, and sends halves of messages
of 64 MiB in 30 calls. Prints the growth of the server's resident memory in MiB, in total and for each connection or
call, and whether another client with the token is still answered.
"""

import argparse
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread

import grpc

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.http2 import Connection, message_header
from support.paths import ROOT

from fullconv.protos import scoring_pb2

MIB = 1 << 20
CALLS = 30
"""Number of calls of the peer with a token."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HALF = bytes(1) + (64 << 20).to_bytes(4, "big") + bytes(8000)
"""The beginning of a message of 64 MiB. Eight of them fit in the window of a connection."""


def frame(kind: int, flags: int, stream: int, payload: bytes, announced: int | None = None) -> bytes:
    """Return a frame of HTTP/2; `announced` is its length in the header. Default: None, the length of the payload."""
    size = len(payload) if announced is None else announced
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call(stream: int, path: str) -> bytes:
    """Return the frames that open a call and send half of its message."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "content-type": "application/grpc",
    }
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )
    data = b"".join(frame(0, 0, stream, HALF[at : at + 16384]) for at in range(0, len(HALF), 16384))
    return frame(1, 4, stream, block) + data


START = scoring_pb2.ScoreLargeRequest(start=scoring_pb2.LargeImage(model="digits")).SerializeToString()
HALF_MESSAGE = message_header(60 * MIB) + bytes(30 * MIB)
HALF_PART = message_header(len(START)) + START + HALF_MESSAGE
"""The first message of ScoreLarge, and half of a part of its image."""
SETTINGS = PREFACE + frame(4, 0, 0, b"")
KINDS = {
    "connections alone": b"",
    "connections with a handshake": SETTINGS,
    "half a header block": SETTINGS + frame(1, 0, 1, b"\0\x7f" + b"a" * 127 + b"\x7f" + b"b" * 100),
    "half a GOAWAY frame of 1 MiB": SETTINGS + frame(7, 0, 0, bytes(1 << 19), announced=1 << 20),
    "8 half-sent calls of Score": SETTINGS + b"".join(call(2 * n + 1, "/fullconv.v1.Scoring/Score") for n in range(8)),
    "a half-sent health check": SETTINGS + call(1, "/grpc.health.v1.Health/Check"),
}


def resident_mib(process: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def is_answered(address: str) -> bool:
    """Return whether another client with a token is answered within ten seconds."""
    with grpc.insecure_channel(address) as channel:
        try:
            metadata = (("authorization", "Bearer other"),)
            channel.unary_unary("/fullconv.v1.Scoring/ListModels")(b"", metadata=metadata, timeout=10)
        except grpc.RpcError:
            return False
    return True


def leave_open(content: bytes, connections: int, address: str) -> list[socket.socket]:
    """Open connections, send the same on each, and return them."""
    peers = [socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) for _ in range(connections)]
    for peer in peers:
        peer.settimeout(1)
        with suppress(OSError):  # the server takes no more, or has closed the connection
            peer.sendall(content)
    return peers


def leave_half_sent(path: str, content: bytes, connections: int, address: str) -> list[Connection]:
    """Send half of CALLS calls with the token over some connections, and return these."""
    peers = [Connection(address) for _ in range(connections)]
    for number in range(CALLS):
        peer = peers[number % connections]
        peer.send(peer.open(path, authorization="Bearer secret"), content, seconds=0.2)
    return peers


SCORING = "/fullconv.v1.Scoring/"
OF_A_CLIENT = {
    "Score, one connection": partial(leave_half_sent, f"{SCORING}Score", HALF_MESSAGE, 1),
    "Score, ten connections": partial(leave_half_sent, f"{SCORING}Score", HALF_MESSAGE, 10),
    "ScoreMany, ten connections": partial(leave_half_sent, f"{SCORING}ScoreMany", HALF_MESSAGE, 10),
    "ScoreLarge, ten connections": partial(leave_half_sent, f"{SCORING}ScoreLarge", HALF_PART, 10),
    "ModelStreamInfer, ten connections": partial(
        leave_half_sent, "/inference.GRPCInferenceService/ModelStreamInfer", HALF_MESSAGE, 10
    ),
}


def measured(leave: Callable[[str], object], tokens: Path) -> tuple[float, bool]:
    """Return the growth of a server's memory in MiB, and whether it still answers another client."""
    command = [sys.executable, "-m", "service", "--models", str(ROOT / "models"), "--tokens", str(tokens)]
    command += ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603 (our own command)
        assert server.stderr is not None  # noqa: S101 (it is a pipe)
        address = json.loads(server.stderr.readline())["address"]
        Thread(target=server.stderr.read, daemon=True).start()  # or the log would fill the pipe
        is_answered(address)
        before = resident_mib(server.pid)
        opened = leave(address)
        time.sleep(1)
        result = resident_mib(server.pid) - before, is_answered(address)
        server.kill()
        del opened
    return result


def main() -> None:
    """Measure every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=200, help="number of connections (default: 200)")
    count = parser.parse_args().connections
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("secret", "other")}
        tokens.write_text(f"anna {hashes['secret']}\nbert {hashes['other']}\n")
        rows: dict[str, tuple[Callable[[str], object], int]]
        rows = {name: (partial(leave_open, content, count), count) for name, content in KINDS.items()}
        rows |= {f"with a token: {name}": (leave, CALLS) for name, leave in OF_A_CLIENT.items()}
        for name, (leave, each) in rows.items():
            grown, answered = measured(leave, tokens)
            print(f"{name:50} {grown:7.1f} MiB {grown / each * 1024:9.1f} KiB each, others answered: {answered}")


if __name__ == "__main__":
    main()
