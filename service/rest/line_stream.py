"""Answers over HTTP that are a stream of lines, each a JSON document: the counterpart of the streams of gRPC.

An error before the first line has a status of its own. After that, it is the last line: {"error": MESSAGE, "reason":
REASON}.
"""

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.dispatch.call import Call
from service.errors import CancelledRunError, IdleError, OptionError, ServiceError
from service.rest.endpoint import call_of, while_open
from service.rest.refusals import refusal
from service.rpc.calls import Calls
from service.rpc.status import status_of
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

    async def end(self) -> None:
        """End the answer after its last line."""
        await self._send({"type": "http.response.body"})

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await idle_timeout(self.seconds, self.sender(message), "to take the answer")
        except IdleError:
            self.is_stalled = True
            raise


Work = Callable[[Request, Call, Lines], Awaitable[None]]


@dataclass(frozen=True)
class LineStream:
    """An ASGI application that answers one method with lines, with the rules of `service.rest.endpoint.Endpoint`."""

    calls: Calls
    idle_seconds: float
    method: str
    work: Work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        end = self.calls.begin()
        try:
            request = Request(scope, receive)
            await self._answer(request, Lines(send, self.idle_seconds))
        except IdleError:
            request.state.abort()
            await request.state.closed.wait()
        finally:
            end()

    async def _answer(self, request: Request, lines: Lines) -> None:
        call = call_of(request, self.method)
        identify = partial(self.calls.access.identify, call.metadata, request.state.common_name, call.client)
        try:
            await self.calls.identified(call, identify, partial(self._work, request, lines))
        except ServiceError as error:
            if lines.is_stalled:
                raise
            code, answer = status_of(error)[0], refusal(error)
        else:
            await lines.end()
            return
        await self.calls.delay_refusal(call.client, code)  # without the error, which refers to the request
        if lines.is_begun:
            await lines.send(json.loads(answer.parts[0]))
            await lines.end()
        else:
            await answer.send(lines.sender, self.idle_seconds)

    async def _work(self, request: Request, lines: Lines, call: Call) -> None:
        async with while_open(request.state.closed):
            await self.work(request, call, lines)


async def body_parts(request: Request) -> AsyncIterator[bytes]:
    """Yield the parts of a body as they arrive; raises CancelledRunError if the client leaves."""
    is_last = False
    while not is_last:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise CancelledRunError("the client has closed the connection")
        is_last = not message["more_body"]
        if message["body"]:
            yield message["body"]
    request.state.resume_reading()  # uvicorn pauses after a large body, and would not notice that the client leaves


async def take(parts: AsyncIterator[bytes], size: int) -> tuple[bytes, bytes]:
    """Return the first `size` bytes of a body, and the bytes after them that arrived in the same part.

    Raises OptionError if the body ends earlier.
    """
    taken: list[bytes] = []
    missing = size
    while missing > 0:
        part = await anext(parts, b"")
        if not part:
            raise OptionError(f"body: expected a mask of {size} bytes, then the file, got {size - missing} bytes")
        taken.append(part)
        missing -= len(part)
    last = taken.pop() if taken else b""
    end = len(last) + missing
    return b"".join([*taken, last[:end]]), last[end:]


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
