"""Clients of ScoreLarge that send slowly, and what others notice of them."""

import hashlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import Server, running, wait_until

from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from service.dispatch.admission import Admission
from service.errors import BusyError, LimitError
from service.limits import MIB, Limits

MODELS = ROOT / "models"
SIDE = 80
Parts = Iterator[scoring_pb2.ScoreLargeRequest]


def start(raw: scoring_pb2.RawImage | None = None, **fields: Any) -> scoring_pb2.ScoreLargeRequest:
    """The first part of an image for the shipped model."""
    return scoring_pb2.ScoreLargeRequest(start=scoring_pb2.LargeImage(model="digits", raw=raw, **fields))


def rows_start(height: int = SIDE) -> scoring_pb2.ScoreLargeRequest:
    """The first part of an image of raw rows."""
    return start(scoring_pb2.RawImage(height=height, width=SIDE, channels=1, dtype="uint8"))


def trickle(first: scoring_pb2.ScoreLargeRequest, part: bytes, left: Event) -> Parts:
    """An image whose parts come slowly until `left` is set."""
    yield first
    while not left.wait(0.02):
        yield scoring_pb2.ScoreLargeRequest(data=part)


@contextmanager
def with_tokens(folder: Path, *options: str) -> Iterator[tuple[Server, scoring_pb2_grpc.ScoringStub]]:
    """A server that knows the tokens slow, slower and quick, and a stub of it."""
    lines = [f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("slow", "slower", "quick")]
    (folder / "tokens").write_text("".join(lines))
    with (
        running(MODELS, "--tokens", str(folder / "tokens"), *options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield server, scoring_pb2_grpc.ScoringStub(channel)


def by(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {name}"),)


def test_slow_writers_starve_nobody(tmp_path: Path) -> None:
    """Images whose rows come slowly leave the places for scoring to other clients, however many there are."""
    left = Event()
    with with_tokens(tmp_path, "--max-large", "2") as (server, stub):
        slow = [
            stub.ScoreLarge(trickle(rows_start(10_000), bytes(SIDE), left), metadata=by(name))
            for name in ("slow", "slow", "slow", "slower", "slower", "slower")
        ]
        for stream in slow:
            assert next(stream).WhichOneof("part") == "start"
        pixels = np.frombuffer(bytes(SIDE * SIDE), np.uint8)
        quick = iter([rows_start(), scoring_pb2.ScoreLargeRequest(data=pixels.tobytes())])
        parts = [part.WhichOneof("part") for part in stub.ScoreLarge(quick, metadata=by("quick"), timeout=60)]
        assert parts[-1] == "summary"
        assert not [line for line in server.events("request") if line["client"] != "quick"]
        for stream in slow:
            stream.cancel()
        left.set()


@pytest.mark.parametrize("first", [rows_start(10_000), start()], ids=["rows", "file"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-idle", "1", "--min-upload-kib", "64"], "expected at least 64 KiB per second (min_upload_kib), got"),
        (["--max-upload", "1", "--min-upload-kib", "0"], "expected the whole image within 1 seconds (max_upload), got"),
    ],
    ids=["rate", "time"],
)
@pytest.mark.slow
def test_slow_uploads_end(options: list[str], said: str, first: scoring_pb2.ScoreLargeRequest) -> None:
    """An upload that is too slow, or takes too long, is DEADLINE_EXCEEDED, with the limit and what has arrived."""
    left = Event()
    with running(MODELS, *options) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(scoring_pb2_grpc.ScoringStub(channel).ScoreLarge(trickle(first, bytes(SIDE), left), timeout=60))
        left.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert said in caught.value.details()
    assert "MiB in" in caught.value.details()


def test_slow_uploads_do_not_delay_the_end() -> None:
    """At SIGTERM, an image that arrives slowly is refused, so that its client asks another server."""
    left = Event()
    with running(MODELS) as server, grpc.insecure_channel(server.address) as channel:
        stub = scoring_pb2_grpc.ScoringStub(channel)
        streams = [stub.ScoreLarge(trickle(first, bytes(SIDE), left)) for first in (rows_start(10_000), start())]
        next(streams[0])
        wait_until(lambda: len(server.events("loaded")) == 1)
        server.process.send_signal(signal.SIGTERM)
        codes = [stream.code() for stream in streams]
        left.set()
        assert codes == [grpc.StatusCode.UNAVAILABLE] * 2
        assert server.process.wait(30) == 0


def test_one_client_has_its_share_of_the_spool(tmp_path: Path) -> None:
    """A file that is larger than a client's share of the spool is refused, and another client's file has room."""
    file = scoring_pb2.ScoreLargeRequest(data=png(noise(SIDE, SIDE, 1)))
    left = Event()
    with with_tokens(tmp_path, "--spool-mib", "2") as (_, stub):
        holding = stub.ScoreLarge(trickle(start(), bytes(MIB // 20), left), metadata=by("slow"))
        with pytest.raises(grpc.RpcError) as caught:
            list(holding)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "expected a file of at most 1 MiB, your share of the spool, got more" in caught.value.details()
        parts = list(stub.ScoreLarge(iter([start(), file]), metadata=by("quick"), timeout=60))
        assert parts[-1].WhichOneof("part") == "summary"
        left.set()


def test_files_in_the_spool_are_counted_by_client() -> None:
    """A client's files together have its share, and those of all clients the size of the spool."""
    gate = Admission(Limits(spool_bytes=100, client_share=0.5))
    with gate.admitted("anna", 1) as one, gate.admitted("anna", 1) as two, gate.admitted("ben", 1) as three:
        gate.spool(one, 30)
        with pytest.raises(BusyError, match="expected your files together"):
            gate.spool(two, 30)
        with pytest.raises(LimitError, match="your share of the spool"):
            gate.spool(one, 30)
        gate.spool(three, 50)
        gate.spool(two, 20)
        with gate.admitted("cleo", 1) as four, pytest.raises(BusyError, match="expected all files together"):
            gate.spool(four, 1)
        gate.spool(one, -30)
        assert gate.load.spool_bytes == 70
    assert gate.load.spool_bytes == 0
