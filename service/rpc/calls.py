"""The common part of all calls, by gRPC and by HTTP: authentication, draining, one line of the log, status, metrics.

The gRPC handlers made here get raw bytes and parse them themselves, so that a message that cannot be parsed ends in
INVALID_ARGUMENT; if gRPC parsed it, the status would be INTERNAL.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from service.dispatch.call import Call
from service.errors import BugError, CancelledRunError, DrainingError, IdleError, OptionError, ServiceError
from service.limits import Limits
from service.log import REQUEST, log
from service.metrics import Metrics
from service.rpc.access import Access
from service.rpc.receiving import Receiver
from service.rpc.refusals import Refusals
from service.rpc.status import status_of
from service.rpc.streams import Send, idle_timeout
from service.rpc.traces import Traced
from service.shortage import shortage_of

LINGER_SECONDS, LINGER_TIMES = 0.5, 20
"""Length of a period that must pass without a new call before draining ends, and the largest number of periods."""
CHECK_SECONDS = 1.0
"""Seconds between two checks for answers that clients do not take, while the server drains."""
LARGE_BYTES = 1 << 20
"""Bytes of a message that is parsed in another thread, since parsing it would delay other calls."""

Request = TypeVar("Request", bound=Message)
Value = TypeVar("Value")


class Calls:
    """Makes gRPC handlers from methods, and keeps track of the calls that are not answered yet.

    `limits.idle_seconds` is the number of seconds that the client of a stream may take to receive a message.
    """

    def __init__(self, access: Access, metrics: Metrics, limits: Limits, traces: Traced | None = None) -> None:
        self.access, self._metrics, self._traces, self._idle = access, metrics, traces, limits.idle_seconds
        self.receiver, self._refusals = Receiver(limits), Refusals()
        self._arrivals = 0
        self._unanswered: set[object] = set()
        self._answered = asyncio.Event()
        self._ready: dict[Callable[[], None], float] = {}
        """Time at which gRPC got the answer of a call, by the function that ends the call."""
        self.received_bytes = 0
        """Bytes of all messages that were received so far."""
        self.draining = asyncio.Event()
        """Set when the server begins to shut down."""

    async def drain(self) -> None:
        """Refuse new calls and messages that are still arriving from now on, and wait until other calls are answered.

        A client that does not take its answer within `limits.idle_seconds` is not waited for any longer.
        Then wait until no new call has arrived for LINGER_SECONDS, at most LINGER_TIMES times. Calls that arrive in
        this time end in UNAVAILABLE, so that their clients ask another server. A call that arrives while gRPC closes
        would end in CANCELLED, which does not tell its client to do so.
        """
        self.draining.set()
        self.receiver.close()
        while self._unanswered:
            self._answered.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), CHECK_SECONDS)
            self._give_up_untaken(time.monotonic() - self._idle)
        for _ in range(LINGER_TIMES):
            arrivals = self._arrivals
            await asyncio.sleep(LINGER_SECONDS)
            if self._arrivals == arrivals:
                return

    def unary(
        self, name: str, kind: type[Request], method: Callable[[Request, Call], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler:
        """Return the handler of a method that takes one message and returns one.

        For gRPC, the message is a stream of one message, so that it is not received before the client is identified.
        """

        async def handle(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
            async def work(call: Call) -> bytes:
                data = await self.receiver.read(call, context.read)
                if data is grpc.aio.EOF:
                    raise OptionError(f"message: expected {kind.DESCRIPTOR.full_name}, got none")
                self.received_bytes += len(data)
                return (await method(await received(kind, data, call), call)).SerializeToString()

            return await self._call(name, context, work)

        return grpc.stream_unary_rpc_method_handler(handle)

    def stream(
        self, name: str, kind: type[Request], method: Callable[[AsyncIterator[Request], Send, Call], Awaitable[None]]
    ) -> grpc.RpcMethodHandler:
        """Return the handler of a method that takes a stream of messages and sends messages."""

        async def handle(stream: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async def send(message: Message) -> None:
                data = message.SerializeToString()
                try:
                    await idle_timeout(self._idle, context.write(data), "to take the answer")
                except IdleError:
                    raise
                except Exception:  # the call has ended, for which gRPC raises different exceptions
                    raise CancelledRunError("the client has closed the call") from None

            async def requests(
                call: Call,
            ) -> AsyncIterator[Request]:  # a generator expression would start reading early
                async for data in stream:
                    self.received_bytes += len(data)
                    yield await received(kind, data, call)

            await self._call(name, context, lambda call: method(requests(call), send, call))

        return grpc.stream_stream_rpc_method_handler(handle)

    def begin(self) -> Callable[[], None]:
        """Count a call as unanswered; returns the function that ends it, after its answer is sent."""
        self._arrivals += 1
        this = object()
        if not self.draining.is_set():  # refused calls are not waited for: clients that retry would delay the shutdown
            self._unanswered.add(this)
        return partial(self._end, this)

    async def identified(
        self, call: Call, identify: Callable[[], str], work: Callable[[Call], Awaitable[Value]]
    ) -> Value:
        """Identify the client of a call that has just begun, and do the work of the call; see `logged`."""
        is_draining = self.draining.is_set()

        async def authenticated(call: Call) -> Value:
            call.client = call.record["client"] = identify()
            if is_draining:
                raise DrainingError("the server is shutting down; ask another server, or retry later")
            return await work(call)

        return await self.logged(call, authenticated)

    async def logged(self, call: Call, work: Callable[[Call], Awaitable[Value]]) -> Value:
        """Do the work of a request and write its line of the log. Unexpected exceptions become BugError.

        Raises ServiceError.
        """
        call.record |= {
            "method": call.method,
            "id": f"{random.getrandbits(48):012x}",
            "client": call.client,
            "code": "CANCELLED",
        }
        started = time.monotonic()
        try:
            with self._traces.span(call.record, call.metadata) if self._traces else nullcontext():
                return await self._coded(call, work)
        finally:
            seconds = time.monotonic() - started
            call.record["ms"] = round(seconds * 1e3, 3)
            self._metrics.observe_request(call.record, seconds)
            log.info(REQUEST, extra={"record": call.record})

    async def _coded(self, call: Call, work: Callable[[Call], Awaitable[Value]]) -> Value:
        """Do the work of a request, and record the status with which it ends."""
        try:
            result = await self._checked(work(call))
        except ServiceError as error:
            code, message, _ = status_of(error)
            call.record |= {"code": code.name, "error": message}
            raise
        except Exception as error:
            call.record["code"] = grpc.StatusCode.INTERNAL.name
            log.exception("bug", extra={"record": {"id": call.record["id"]}})
            raise BugError(f"a bug in the server; its log has the details under id {call.record['id']}") from error
        call.record["code"] = "OK"
        return result

    async def _checked(self, work: Awaitable[Value]) -> Value:
        """Await the work of a request; raises ShortageError for an error whose cause is a shortage of the server."""
        try:
            return await work
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            self._metrics.observe_shortage(shortage.resource)
            raise shortage from error

    async def _call(
        self, name: str, context: grpc.aio.ServicerContext, work: Callable[[Call], Awaitable[Value]]
    ) -> Value:
        """Do the work of one call, which counts as unanswered meanwhile; an error becomes the status of the call."""
        left = context.time_remaining()
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        call = Call(
            name,
            self.access.address(context),
            connection=context.peer(),
            deadline=None if left is None else time.monotonic() + left,
            metadata=metadata,
        )
        end = self.begin()

        def done(_: object) -> None:
            self._ready.pop(end, None)
            end()

        context.add_done_callback(done)  # called when the answer is sent
        try:
            result = await self.identified(call, partial(self.access.client, context, metadata), work)
        except ServiceError as error:
            status = status_of(error)
            if isinstance(error, IdleError):  # a client that does not read answers may not read a status either
                end()
        else:
            if not context.done():
                self._ready[end] = time.monotonic()
            return result
        await self.delay_refusal(call.client, status[0])
        await context.abort(*status)
        raise AssertionError("abort raises")

    async def delay_refusal(self, client: str, code: grpc.StatusCode) -> None:
        """Wait before a refusal is sent to a client that is refused often, unless the server begins to shut down."""
        seconds = self._refusals.delay(client, code)
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.draining.wait(), seconds)

    def _give_up_untaken(self, before: float) -> None:
        """End the calls whose answers gRPC got at or before a time and whose clients have not taken them."""
        for end in [end for end, since in self._ready.items() if since <= before]:
            end()

    def _end(self, call: object) -> None:
        self._unanswered.discard(call)
        self._answered.set()


async def received(kind: type[Request], data: bytes, call: Call) -> Request:
    """Parse a message, a large one in another thread, so that the event loop can serve other calls meanwhile."""
    call.size = len(data)
    return parsed(kind, data) if len(data) < LARGE_BYTES else await asyncio.to_thread(parsed, kind, data)


def parsed(kind: type[Request], data: bytes) -> Request:
    """Parse a message; raises OptionError if the bytes are no message of that kind."""
    request = kind()
    try:
        request.ParseFromString(data)
    except DecodeError:
        raise OptionError(
            f"message: expected {request.DESCRIPTOR.full_name}, got {len(data)} bytes of another kind"
        ) from None
    return request
