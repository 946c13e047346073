"""What gRPC holds of messages before the server looks at them."""

import gzip
import hashlib
import signal
import time
from pathlib import Path

import grpc
import pytest
from support.http2 import Connection, message_header
from support.paths import ROOT
from support.pictures import noise
from support.servers import SCORE, Server, running, wait_until

from fullconv import Client

MODELS, MIB = ROOT / "models", 1 << 20
MESSAGE = 64 * MIB
HALF = message_header(MESSAGE) + bytes(MESSAGE // 2)
WINDOW = 1 << 16
IMAGE = noise(80, 80, 1)


def peak_mib(server: Server) -> int:
    """The largest resident memory of a server so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def errors(server: Server) -> list[str]:
    """The errors in the log."""
    return [line["error"] for line in server.events("request") if "error" in line]


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 12], ids=["one connection", "connections"])
def test_half_sent_messages_hold_bounded_memory(connections: int) -> None:
    """Of 24 half-sent messages of one client, few are received and the others hold a window each.

    A request on another connection is answered if one connection holds them all.
    """
    with running(MODELS) as server, Client(server.address) as client:
        client.score(IMAGE, model="digits")
        before = peak_mib(server)
        opened = [Connection(server.address) for _ in range(connections)]
        sent = [one.send(one.open(SCORE), HALF, seconds=0.2) for one in opened for _ in range(24 // connections)]
        received = [size for size in sent if size > WINDOW]
        assert len(received) == (4 if connections == 1 else 8)
        assert peak_mib(server) - before < len(received) * 32 * 1.3 + 50
        if connections == 1:
            assert client.score(IMAGE, model="digits").model == "digits"
        for one in opened:
            one.__exit__()
        wait_until(lambda: len(server.events("request")) >= 24)
        assert client.score(IMAGE, model="digits").model == "digits"


def test_messages_without_a_token_are_not_received(tmp_path: Path) -> None:
    """A call without a token is refused at once, before the server takes more of its message than a window."""
    (tmp_path / "tokens").write_text(f"anna {hashlib.sha256(b'secret').hexdigest()}\n")
    with running(MODELS, "--tokens", str(tmp_path / "tokens")) as server, Connection(server.address) as peer:
        for _ in range(40):
            stream = peer.open(SCORE)
            assert peer.send(stream, HALF) <= WINDOW
            assert stream in peer.ended
            assert b"expected 'Bearer TOKEN'" in peer.received[stream]
        stream = peer.open(SCORE, authorization="Bearer secret")
        assert peer.send(stream, HALF) == len(HALF)


def test_messages_have_a_time_limit() -> None:
    """A message that does not arrive within --max-receive seconds ends its call, with the way out in the status."""
    with running(MODELS, "--max-receive", "0.5") as server, Connection(server.address) as peer:
        stream = peer.open(SCORE)
        peer.send(stream, HALF)
        peer.wait(lambda: stream in peer.ended)
        assert b"message: expected the whole message within 0.5 seconds" in peer.received[stream]
        wait_until(lambda: errors(server))
        assert server.events("request")[0]["code"] == "DEADLINE_EXCEEDED"


def test_waiting_messages_are_received_in_turn() -> None:
    """A message that finds no place is received when another has arrived, and is not refused."""
    options = ["--max-waiting-mib", "128", "--client-share", "1"]
    with running(MODELS, *options) as server, Connection(server.address) as peer:
        first, second, third = (peer.open(SCORE) for _ in range(3))
        for stream in (first, second):
            assert peer.send(stream, HALF) == len(HALF)
        assert peer.send(third, HALF) <= WINDOW
        rest = bytes(MESSAGE - MESSAGE // 2)
        assert peer.send(first, rest, end=True) == len(rest)
        peer.wait(lambda: first in peer.ended)
        assert peer.send(third, HALF[:MIB]) == MIB


def test_messages_without_a_place_are_bounded() -> None:
    """More calls than --max-waiting may not wait to be received; they are refused with the way out."""
    options = ["--max-waiting-mib", "128", "--max-waiting", "2", "--client-share", "1"]
    with running(MODELS, *options) as server, Connection(server.address) as peer:
        streams = [peer.open(SCORE) for _ in range(5)]
        peer.wait(lambda: streams[-1] in peer.ended)
        assert b"expected at most 2 of all requests to wait to be received" in peer.received[streams[-1]]
        assert not peer.ended & set(streams[:-1])


@pytest.mark.parametrize("method", ["/fullconv.v1.Scoring/Score", "/grpc.health.v1.Health/Check"])
def test_compressed_messages_are_not_unpacked(method: str) -> None:
    """A compressed message is UNIMPLEMENTED, however small, and takes no memory."""
    bomb = gzip.compress(bytes(MESSAGE - 100))
    with running(MODELS) as server, Connection(server.address) as peer:
        before = peak_mib(server)
        for _ in range(40):
            stream = peer.open(method, grpc_encoding="gzip")
            peer.send(stream, message_header(len(bomb), compressed=True) + bomb, end=True)
            peer.wait(lambda stream=stream: stream in peer.ended)  # type: ignore[misc]
            assert b"Compression algorithm 'gzip' is disabled" in peer.received[stream]
        assert peak_mib(server) - before < 50
        with (
            grpc.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            channel.unary_unary(method)(bytes(5000), timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
def test_health_and_reflection_receive_few_messages() -> None:
    """Half-sent messages of services that need no token hold bounded memory and end after two seconds."""
    with running(MODELS) as server, Connection(server.address) as peer:
        methods = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
        methods.append("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        streams = [peer.open(method) for method in methods * 3]
        sent = [peer.send(stream, HALF, seconds=0.2) for stream in streams]
        assert len([size for size in sent if size > WINDOW]) < len(sent)
        peer.wait(lambda: peer.ended >= set(streams))
        assert peak_mib(server) < 600


def test_small_messages_do_not_wait_for_slow_ones() -> None:
    """While half-sent messages hold all places, small announced messages are answered; false announcements end."""
    options = ["--max-waiting-mib", "128", "--client-share", "1"]
    with (
        running(MODELS, *options) as server,
        Connection(server.address) as peer,
        Client(server.address, timeout=60) as client,
    ):
        for stream in [peer.open(SCORE) for _ in range(2)]:
            peer.send(stream, HALF, seconds=0.2)
        for _ in range(5):
            assert client.score(IMAGE, model="digits").model == "digits"
        false = peer.open(SCORE, fullconv_message_bytes="100")
        peer.send(false, HALF[:MIB], seconds=0.2)
        peer.wait(lambda: false in peer.ended)
        assert b"expected a message of at most 49152 bytes, as announced" in peer.received[false]


def test_announced_messages_may_take_an_ordinary_place() -> None:
    """A message that is announced as small and arrives late is received, if an ordinary place is free."""
    with running(MODELS) as server, Connection(server.address) as peer:
        stream = peer.open(SCORE, fullconv_message_bytes="100")
        peer.send(stream, message_header(4), seconds=0.2)
        time.sleep(1)
        peer.send(stream, b"abcd", end=True)
        peer.wait(lambda: stream in peer.ended)
        assert b"expected fullconv.v1.ScoreRequest" in peer.received[stream]


def test_half_sent_messages_do_not_delay_the_end() -> None:
    """At SIGTERM, calls whose message has not arrived are refused, so that their clients ask another server."""
    with running(MODELS) as server, Connection(server.address) as peer:
        streams = [peer.open(SCORE) for _ in range(9)]
        for stream in streams[:5]:
            peer.send(stream, HALF[:MIB], seconds=0.2)
        server.process.send_signal(signal.SIGTERM)
        peer.wait(lambda: peer.ended >= set(streams))
        assert all(b"the server is shutting down" in peer.received[stream] for stream in streams)
        assert server.process.wait(30) == 0


def test_calls_without_a_message_are_refused(server: Server) -> None:
    """A call that ends before its message is INVALID_ARGUMENT."""
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(SCORE)(iter(()), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "message: expected fullconv.v1.ScoreRequest, got none"
