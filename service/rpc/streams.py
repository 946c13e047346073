"""Streams of requests: several are answered at once, and each answer is sent when it is finished, in any order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from service.errors import BusyError, DrainingError, IdleError

CONCURRENT = 32
"""Largest number of requests of one stream that are answered at once."""

Request = TypeVar("Request", bound=Message)
Admitted = TypeVar("Admitted")
Value = TypeVar("Value")
Send = Callable[[Message], Coroutine[Any, Any, None]]
"""Sends a message to the client of a stream; waits until the client has room for it."""


class RequestStream(Generic[Request, Admitted]):
    """One call that is a stream of requests.

    `admit` admits the request that was read last, for the duration of its block, or raises BusyError. The next request
    is read only after that request is admitted.
    """

    def __init__(
        self,
        answer: Callable[[Request, Admitted], Awaitable[Message]],
        send: Send,
        admit: Callable[[], AbstractContextManager[Admitted]],
    ) -> None:
        self._answer, self._send, self._admit = answer, send, admit
        self._room, self._sending = asyncio.Semaphore(CONCURRENT), asyncio.Lock()

    async def answer_all(self, requests: AsyncIterator[Request], draining: asyncio.Event) -> int:
        """Answer every request; returns their number. Raises DrainingError if the server shuts down first."""
        count, end = 0, asyncio.create_task(draining.wait())
        try:
            async with asyncio.TaskGroup() as answers:
                while (request := await self._next(requests, end)) is not None:
                    admitted = ExitStack()
                    claim = await retry_while_busy(partial(self._enter, admitted))
                    answers.create_task(self._answer_one(request, claim)).add_done_callback(partial(_close, admitted))
                    count += 1
        except ExceptionGroup as errors:  # the first error cancelled all other answers
            raise errors.exceptions[0] from None
        finally:
            end.cancel()
        if draining.is_set():
            raise DrainingError("the server is shutting down; send the requests without an answer to another server")
        return count

    async def _enter(self, admitted: ExitStack) -> Admitted:
        return admitted.enter_context(self._admit())

    async def _next(self, requests: AsyncIterator[Request], end: "asyncio.Task[bool]") -> Request | None:
        """Return the next request once there is room for it; None when the client or the server ends the stream."""
        await self._room.acquire()
        arriving = asyncio.ensure_future(anext(requests, None))
        await asyncio.wait({arriving, end}, return_when=asyncio.FIRST_COMPLETED)
        if arriving.done():
            return arriving.result()
        arriving.cancel()
        return None

    async def _answer_one(self, request: Request, claim: Admitted) -> None:
        message = await self._answer(request, claim)
        async with self._sending:
            await self._send(message)
        self._room.release()


def _close(admitted: ExitStack, _: "asyncio.Task[None]") -> None:
    admitted.close()


async def retry_while_busy(work: Callable[[], Awaitable[Value]]) -> Value:
    """Do some work. If the server is too busy, repeat it after the delay that BusyError states."""
    while True:
        try:
            return await work()
        except BusyError as error:
            await asyncio.sleep(error.seconds)


async def idle_timeout(seconds: float, work: Awaitable[Value], action: str) -> Value:
    """Wait at most `seconds` seconds for the client's next step; raises IdleError, which names the action."""
    try:
        async with asyncio.timeout(seconds):  # wait_for would start a task
            return await work
    except TimeoutError:
        raise IdleError(
            f"client: expected it {action} within {seconds:g} seconds, got nothing; send and read without pausing"
        ) from None
