"""The attacks of siege.py: costly requests of an attacker, each repeated by some callers in a process of its own."""

import io
import socket
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyvips

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.hostile import SMALL_WEBP, chunk, many_scans, one_bit_png, progressive
from support.http2 import Connection, message_header
from support.servers import SCORE

from fullconv.protos import scoring_pb2, scoring_pb2_grpc

MIB = 1 << 20
DEADLINE = 5.0
"""Seconds that the attacker's calls may take."""


@dataclass(frozen=True)
class Target:
    """The server, as the attacker sees it."""

    address: str
    metrics: str
    viewer: str
    """Address of the HTTP port; empty if the server has no such port."""
    token: str
    side: int
    """Height and width of the attacker's images in pixels."""

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """Metadata of a call."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def score(self, data: bytes, options: scoring_pb2.ScoreOptions | None = None, **call: Any) -> None:
        """Send an encoded image to Score."""
        request = scoring_pb2.ScoreRequest(model="digits", options=options, image=scoring_pb2.Image(encoded=data))
        with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = scoring_pb2_grpc.ScoringStub(channel)
            stub.Score(request, metadata=self.metadata, **{"timeout": DEADLINE, **call})


@dataclass(frozen=True)
class Attack:
    """What the attacker does again and again, in so many threads."""

    callers: int
    make: Callable[[int], Callable[[Target], str | None]]
    """Takes the side of images in pixels, and returns a function that makes one call, and may return its status."""


def scoring(data: bytes, options: scoring_pb2.ScoreOptions | None = None, **call: Any) -> Callable[[Target], None]:
    """Return a function that sends an image."""
    return lambda target: target.score(data, options, **call)


def vanishing(data: bytes) -> Callable[[Target], None]:
    """Return a function that sends an image, states no deadline, and leaves soon."""

    def call(target: Target) -> None:
        request = scoring_pb2.ScoreRequest(model="digits", image=scoring_pb2.Image(encoded=data))
        with grpc.insecure_channel(target.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            pending = scoring_pb2_grpc.ScoringStub(channel).Score.future(request, metadata=target.metadata)
            time.sleep(0.3)
            if not pending.cancel():
                pending.result()

    return call


def interlaced(side: int) -> bytes:
    """Return a black interlaced PNG of three bands."""
    image = pyvips.Image.black(side, side, bands=3).copy(interpretation="srgb")
    data: bytes = image.write_to_buffer(".png", interlace=True, compression=9)
    return data


def photograph(side: int) -> bytes:
    """Return an ordinary progressive JPEG."""
    coarse = pyvips.Image.gaussnoise(side // 16, side // 16, mean=128, sigma=40)
    fine = coarse.resize(16, kernel="cubic") + pyvips.Image.gaussnoise(
        side // 16 * 16, side // 16 * 16, sigma=2, mean=0
    )
    data: bytes = fine.bandjoin([fine, fine]).cast("uchar").write_to_buffer(".jpg", interlace=True, Q=75)
    return data


def sixteen_scales() -> scoring_pb2.ScoreOptions:
    """Return options with as many scales as are allowed."""
    factors = np.linspace(0.5, 1, 16)
    return scoring_pb2.ScoreOptions(scales=[scoring_pb2.Scale(factor=factor) for factor in factors])


def last_rows(side: int) -> scoring_pb2.ScoreOptions:
    """Return options with a region at the bottom of the image."""
    return scoring_pb2.ScoreOptions(region=scoring_pb2.Region(x=0, y=side - 100, width=100, height=100))


def many_directories() -> bytes:
    """Return a TIFF file with very many directories."""
    count, size = 300_000, 2 + 12 + 4
    file = io.BytesIO()
    file.write(b"II*\0" + (8).to_bytes(4, "little"))
    for number in range(count):
        following = 8 + (number + 1) * size if number + 1 < count else 0
        entry = (254).to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + bytes(4)
        file.write((1).to_bytes(2, "little") + entry + following.to_bytes(4, "little"))
    return file.getvalue()


def slow_upload(target: Target) -> None:
    """Open ScoreLarge, and send a few bytes now and then."""

    def messages() -> Iterator[scoring_pb2.ScoreLargeRequest]:
        yield scoring_pb2.ScoreLargeRequest(start=scoring_pb2.LargeImage(model="digits"))
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            time.sleep(1)
            yield scoring_pb2.ScoreLargeRequest(data=bytes(48))

    with grpc.insecure_channel(target.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = scoring_pb2_grpc.ScoringStub(channel)
        deque(stub.ScoreLarge(messages(), metadata=target.metadata, timeout=DEADLINE), maxlen=0)


def half_sent(target: Target) -> None:
    """Send halves of large messages on one connection, and keep them open."""
    half = message_header(60 * MIB) + bytes(30 * MIB)
    with Connection(target.address) as connection:
        headers = {"authorization": f"Bearer {target.token}"} if target.token else {}
        for _ in range(10):
            connection.send(connection.open(SCORE, **headers), half, seconds=0.2)
        time.sleep(2)


def half_request_for_metrics(target: Target) -> None:
    """Begin a request to the metrics port, and do not end it."""
    host, _, port = target.metrics.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nAccept: ")
        time.sleep(2)


ATTACKS: dict[str, Attack] = {
    "WebP of 34 bytes": Attack(8, lambda _: scoring(SMALL_WEBP)),
    "progressive JPEG": Attack(8, lambda side: scoring(progressive(side, side, 20))),
    "interlaced PNG": Attack(8, lambda side: scoring(interlaced(side))),
    "40 photographs": Attack(40, lambda side: scoring(photograph(side // 4))),
    "16 scales": Attack(60, lambda side: scoring(one_bit_png(side, side), sixteen_scales())),
    "bottom region": Attack(16, lambda side: scoring(one_bit_png(side, side), last_rows(side))),
    "many scans": Attack(60, lambda _: scoring(many_scans(255 << 10))),
    "compressed text": Attack(16, lambda _: scoring(one_bit_png(64, 64, chunks=text_bomb()))),
    "clients that leave": Attack(16, lambda _: vanishing(SMALL_WEBP)),
    "TIFF directories": Attack(8, lambda _: scoring(many_directories(), scoring_pb2.ScoreOptions(plan_only=True))),
    "compressed messages": Attack(16, lambda _: scoring(bytes(50 * MIB), compression=grpc.Compression.Gzip)),
    "half-sent messages": Attack(4, lambda _: half_sent),
    "slow uploads": Attack(40, lambda _: slow_upload),
    "half requests for metrics": Attack(40, lambda _: half_request_for_metrics),
}


def text_bomb() -> bytes:
    """Return chunks of a PNG file with text that is a thousand times as large as in the file."""
    text = zlib.compress(bytes(20 * MIB), 9)
    return b"".join(chunk(b"zTXt", b"key%d\0\0" % number + text) for number in range(9))
