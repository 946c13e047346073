"""A client of HTTP/2 that sends what gRPC's own clients never send, such as half a message."""

import socket
import struct
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW, FRAME_BYTES = 65535, 16384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message_header(size: int, *, compressed: bool = False) -> bytes:
    """The header of a gRPC message of `size` bytes."""
    return bytes([compressed]) + size.to_bytes(4, "big")


class Connection:
    """A connection to a server, without TLS. `received` holds the headers and the data of each stream as bytes."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._window, self._initial, self._windows = INITIAL_WINDOW, INITIAL_WINDOW, dict[int, int]()
        self.received: defaultdict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self._changed, self._next = Condition(), 1
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def open(self, path: str, **headers: str) -> int:
        """Begin a call; returns its stream."""
        stream, self._next = self._next, self._next + 2
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        fields |= {"content-type": "application/grpc"} | {
            name.replace("_", "-"): each for name, each in headers.items()
        }
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields.items()
        )
        with self._changed:
            self._windows[stream] = self._initial
            self._socket.sendall(frame(HEADERS, END_HEADERS, stream, block))
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False, seconds: float = 1.0) -> int:
        """Send data as far as the server lets it within some seconds; returns the bytes that were sent."""
        sent = 0
        while sent < len(data):
            with self._changed:
                if not self._changed.wait_for(lambda: self._room(stream) > 0 or stream in self.ended, seconds):
                    break
                if stream in self.ended:
                    break
                size = min(self._room(stream), FRAME_BYTES, len(data) - sent)
                self._windows[stream] -= size
                self._window -= size
                flags = END_STREAM if end and sent + size == len(data) else 0
            self._socket.sendall(frame(DATA, flags, stream, data[sent : sent + size]))
            sent += size
        return sent

    def wait(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait until a condition holds, which is checked whenever a frame arrives."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), "expected the condition to hold in time"

    def _room(self, stream: int) -> int:
        return min(self._window, self._windows[stream])

    def _read(self) -> None:
        with suppress(OSError, EOFError), self._socket.makefile("rb") as file:
            while header := file.read(9):
                size, kind, flags = int.from_bytes(header[:3], "big"), header[3], header[4]
                stream = int.from_bytes(header[5:], "big") & 0x7FFFFFFF
                payload = file.read(size)
                with self._changed:
                    self._take(kind, flags, stream, payload)
                    self._changed.notify_all()
        with self._changed:
            self.ended |= set(self._windows)
            self._changed.notify_all()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 8 if stream:
                self._windows[stream] += int.from_bytes(payload, "big")
            case 8:
                self._window += int.from_bytes(payload, "big")
            case 4 if not flags & ACK:
                for name, value in struct.iter_unpack(">HI", payload):
                    if name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                        self._windows = {each: room + value - self._initial for each, room in self._windows.items()}
                        self._initial = value
                self._socket.sendall(frame(SETTINGS, ACK, 0))
            case 6 if not flags & ACK:
                self._socket.sendall(frame(PING, ACK, 0, payload))
            case 0 | 1:
                self.received[stream] += payload
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)
