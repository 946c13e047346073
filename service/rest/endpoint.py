"""A method over HTTP: the counterpart of the gRPC handlers in `service.rpc.calls`.

A method returns one answer, or sends lines. An error before the first line has a status of its own. After that, it is
the last line: {"error": MESSAGE, "reason": REASON}.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from fullconv.common.metadata import MESSAGE_BYTES
from service.dispatch.admission import Admission
from service.dispatch.call import Call
from service.errors import CancelledRunError, IdleError, ServiceError
from service.rest.answers import PIECE_BYTES, Answer
from service.rest.body import read_body
from service.rest.line_stream import Lines
from service.rest.refusals import refusal
from service.rpc.calls import Calls
from service.rpc.status import status_of

Work = Callable[[Request, Call, Lines], Awaitable[Answer | None]]
"""Answers a request: returns the answer, or sends lines and returns None."""


@dataclass(frozen=True)
class Endpoint:
    """An ASGI application that answers one method by `work`, with the access rules, log and metrics of gRPC calls.

    The client may take at most `idle_seconds` for each piece or line of the answer; `admission` counts an answer of
    several pieces until the client has it. `service.server.viewer` describes the state of a request.
    """

    calls: Calls
    admission: Admission
    idle_seconds: float
    method: str
    work: Work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        end = self.calls.begin()
        request, lines = Request(scope, receive), Lines(send, self.idle_seconds)
        try:
            call = call_of(request, self.method)
            answer = await self._answer(request, call, lines)
            if lines.is_begun or answer is None:
                await lines.end(answer)
            else:
                await self._send(answer, call, send)
        except IdleError:
            request.state.abort()
            await request.state.closed.wait()
        finally:
            end()

    async def _answer(self, request: Request, call: Call, lines: Lines) -> Answer | None:
        """Return the answer, a refusal after an error, or None after lines; raises IdleError if they are not taken."""
        identify = partial(self.calls.access.identify, call.metadata, request.state.common_name, call.client)
        try:
            return await self.calls.identified(call, identify, partial(self._work, request, lines))
        except ServiceError as error:
            if lines.is_stalled:
                raise
            code, answer = status_of(error)[0], refusal(error)
        await self.calls.delay_refusal(call.client, code)  # without the error, which refers to the request
        return answer

    async def _work(self, request: Request, lines: Lines, call: Call) -> Answer | None:
        async with while_open(request.state.closed):
            return await self.work(request, call, lines)

    async def _send(self, answer: Answer, call: Call, send: Send) -> None:
        """Send an answer. Further requests are refused while clients leave too many bytes of answers here."""
        counted = self.admission.answer(call.client, answer.size) if answer.size > PIECE_BYTES else nullcontext()
        with counted:
            await answer.send(send, self.idle_seconds)


MakeEndpoint = Callable[[str, Work], Endpoint]
"""Makes the endpoint of a method, by its name and its work."""


async def received_body(request: Request, call: Call, calls: Calls, limit: int) -> bytes:
    """Return the body of a request, which waits for its turn to be received as the messages of gRPC do."""
    body = await calls.receiver.read(call, partial(read_body, request, limit))
    call.size = len(body)
    calls.received_bytes += call.size
    return body


@asynccontextmanager
async def while_open(closed: asyncio.Event) -> AsyncIterator[None]:
    """Cancel the block if the client closes the connection meanwhile; then raises CancelledRunError.

    The block is not a task of its own: the error of a task refers to the task, so that the memory of refused requests
    would be free only after the next garbage collection.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (a coroutine runs in a task)

    async def cancel() -> None:
        await closed.wait()
        task.cancel()

    watching = asyncio.create_task(cancel())
    try:
        yield
    except asyncio.CancelledError:
        if not closed.is_set() or task.uncancel():
            raise
        raise CancelledRunError("the client has closed the connection") from None
    finally:
        watching.cancel()


def call_of(request: Request, method: str) -> Call:
    """Return the call for a request. Addresses have the form of gRPC: one machine is one client by gRPC and by HTTP."""
    metadata = dict(request.headers.items())
    metadata.pop(MESSAGE_BYTES, None)
    if "content-length" in metadata and not {"content-encoding", "transfer-encoding"} & metadata.keys():
        metadata[MESSAGE_BYTES] = metadata["content-length"]
    host, port = request.client or ("", 0)
    address = f"ipv6:%5B{host}%5D" if ":" in host else f"ipv4:{host}"
    return Call(method, address, connection=f"{address}:{port}", metadata=metadata)
