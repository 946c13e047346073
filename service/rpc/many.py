"""ScoreMany: a stream of images in, a stream of answers out, as they finish.

The next image is read when the one before is admitted; answers are sent one after the other, whatever their order.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, TypeVar

from fullconv.protos import scoring_pb2
from service.admission import Claim
from service.errors import BusyError, DrainingError, ServiceError
from service.rpc.status import reason_of, status_of

TOGETHER = 32
"""Images of one call on their way at once."""

Requests = AsyncIterator[scoring_pb2.ScoreManyRequest]
Send = Callable[[scoring_pb2.ScoreManyResponse], Coroutine[Any, Any, None]]
Score = Callable[[scoring_pb2.ScoreRequest, Claim], Awaitable[scoring_pb2.ScoreResponse]]
Admit = Callable[[], AbstractContextManager[Claim]]
Request = TypeVar("Request")
Result = TypeVar("Result")


class ScoreMany:
    """One call; `admit` lets in the message that came last, or raises BusyError."""

    def __init__(self, score: Score, send: Send, admit: Admit) -> None:
        self._score, self._send, self._admit = score, send, admit
        self._room = asyncio.Semaphore(TOGETHER)
        self._sending = asyncio.Lock()

    async def answer(self, requests: Requests, draining: asyncio.Event) -> int:
        """Answer every image; returns how many. Raises DrainingError where the server stops before the client does."""
        count, end = 0, asyncio.create_task(draining.wait())
        try:
            async with asyncio.TaskGroup() as images:
                while (request := await self._next(requests, end)) is not None:
                    admitted = ExitStack()
                    claim = await patiently(partial(self._entered, admitted))
                    images.create_task(self._one(request, claim)).add_done_callback(partial(_close, admitted))
                    count += 1
        except ExceptionGroup as errors:  # the first one ended all others
            raise errors.exceptions[0] from None
        finally:
            end.cancel()
        if draining.is_set():
            raise DrainingError("the server is shutting down: send the images that have no answer to another one")
        return count

    async def _entered(self, admitted: ExitStack) -> Claim:
        return admitted.enter_context(self._admit())

    async def _next(self, requests: Requests, end: asyncio.Task[bool]) -> scoring_pb2.ScoreManyRequest | None:
        """The next image when there is room for it; None at the end, the client's or the server's."""
        await self._room.acquire()
        return await before(end, requests)

    async def _one(self, request: scoring_pb2.ScoreManyRequest, claim: Claim) -> None:
        try:
            response = await self._score(request.request, claim)
            answer = scoring_pb2.ScoreManyResponse(id=request.id, response=response)
        except ServiceError as error:
            code, message, _ = status_of(error)
            failure = scoring_pb2.Failure(code=code.value[0], message=message, reason=reason_of(error))
            answer = scoring_pb2.ScoreManyResponse(id=request.id, failure=failure)
        async with self._sending:
            await self._send(answer)
        self._room.release()


async def before(end: asyncio.Task[bool], requests: AsyncIterator[Request]) -> Request | None:
    """The next request, unless something ends first; None at the end, whichever."""
    coming = asyncio.ensure_future(anext(requests, None))
    await asyncio.wait({coming, end}, return_when=asyncio.FIRST_COMPLETED)
    if coming.done():
        return coming.result()
    coming.cancel()
    return None


def _close(admitted: ExitStack, _: asyncio.Task[None]) -> None:
    admitted.close()


async def patiently(work: Callable[[], Awaitable[Result]]) -> Result:
    """Do what a busy server may refuse; again, when it says."""
    while True:
        try:
            return await work()
        except BusyError as error:
            await asyncio.sleep(error.seconds)
