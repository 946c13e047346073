"""Answers over HTTP, which are sent in pieces, so that a client that stops reading is noticed."""

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import Send

from service.rpc.streams import idle_timeout

JSON, BINARY = "application/json", "application/octet-stream"
PIECE_BYTES = 256 << 10
"""Bytes of an answer that are sent at once."""


@dataclass(frozen=True)
class Answer:
    """An answer: the parts of its body, its headers without Content-Length, and its status."""

    parts: list[bytes]
    headers: dict[str, str]
    status: HTTPStatus = HTTPStatus.OK

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.parts))

    async def send(self, send: Send, seconds: float) -> None:
        """Send the answer; raises IdleError if the client does not take a piece within `seconds` seconds."""
        headers = self.headers | {"content-length": str(self.size), "x-content-type-options": "nosniff"}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        start = {"type": "http.response.start", "status": self.status, "headers": encoded}
        await idle_timeout(seconds, send(start), "to take the answer")
        for piece in self._pieces():
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            await idle_timeout(seconds, send(message), "to take the answer")
        await idle_timeout(seconds, send({"type": "http.response.body"}), "to take the answer")

    def _pieces(self) -> Iterator[bytes]:
        for part in self.parts:
            for start in range(0, len(part), PIECE_BYTES):
                yield part[start : start + PIECE_BYTES]
