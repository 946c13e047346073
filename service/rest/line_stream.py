"""Answers over HTTP that are a stream of lines, each a JSON document: the counterpart of the streams of gRPC."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import Send

from service.errors import IdleError
from service.rest.answers import Answer
from service.rpc.streams import idle_timeout

HEADERS = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]


@dataclass
class Lines:
    """Sends the lines of the answer to one request; the client may take at most `seconds` seconds for each of them."""

    sender: Send
    seconds: float
    is_begun: bool = False
    """Whether the status has been sent."""
    is_stalled: bool = False
    """Whether the client has not taken a line in time."""

    async def send(self, document: Mapping[str, Any]) -> None:
        """Send one line; raises IdleError."""
        if not self.is_begun:
            self.is_begun = True
            await self._send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": HEADERS})
        line = json.dumps(finite(document), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        await self._send({"type": "http.response.body", "body": line, "more_body": True})

    async def end(self, last: Answer | None = None) -> None:
        """End the answer after its last line, or after the document of an answer that is a refusal."""
        if last is not None:
            await self.send(json.loads(last.parts[0]))
        await self._send({"type": "http.response.body"})

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await idle_timeout(self.seconds, self.sender(message), "to take the answer")
        except IdleError:
            self.is_stalled = True
            raise


def finite(value: Any) -> Any:  # noqa: ANN401 (any part of a document)
    """Return a document in which None stands for numbers that JSON does not have."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: finite(part) for key, part in value.items()}
        case list() | tuple():
            return [finite(part) for part in value]
    return value
