"""ScoreMany: a stream of images in, a stream of answers out, as they finish.

The next image is read when there is room for it; answers are sent one after the other, whatever their order.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from protos import scoring_pb2
from service.errors import BusyError, DrainingError, ServiceError
from service.rpc.status import status_of

BUSY_SECONDS = 0.1
"""After which an image is offered again that found no room."""

Requests = AsyncIterator[scoring_pb2.ScoreManyRequest]
Send = Callable[[scoring_pb2.ScoreManyResponse], Coroutine[Any, Any, None]]
Score = Callable[[scoring_pb2.ScoreRequest], Awaitable[scoring_pb2.ScoreResponse]]


class ScoreMany:
    """One call; at most `together` of its images are on their way at once."""

    def __init__(self, score: Score, send: Send, *, together: int) -> None:
        self._score, self._send = score, send
        self._room = asyncio.Semaphore(together)
        self._sending = asyncio.Lock()

    async def answer(self, requests: Requests, draining: asyncio.Event) -> int:
        """Answer every image; returns how many. Raises DrainingError where the server stops before the client does."""
        count, end = 0, asyncio.create_task(draining.wait())
        try:
            async with asyncio.TaskGroup() as images:
                while (request := await self._next(requests, end)) is not None:
                    images.create_task(self._one(request))
                    count += 1
        except ExceptionGroup as errors:  # the first one ended all others
            raise errors.exceptions[0] from None
        finally:
            end.cancel()
        if draining.is_set():
            raise DrainingError("the server is shutting down: send the images that have no answer to another one")
        return count

    async def _next(self, requests: Requests, end: asyncio.Task[bool]) -> scoring_pb2.ScoreManyRequest | None:
        """The next image when there is room for it; None at the end, the client's or the server's."""
        await self._room.acquire()
        coming = asyncio.ensure_future(anext(requests, None))
        await asyncio.wait({coming, end}, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        coming.cancel()
        return None

    async def _one(self, request: scoring_pb2.ScoreManyRequest) -> None:
        try:
            answer = scoring_pb2.ScoreManyResponse(id=request.id, response=await self._score(request.request))
        except ServiceError as error:
            code, message, _ = status_of(error)
            failure = scoring_pb2.Failure(code=code.value[0], message=message)
            answer = scoring_pb2.ScoreManyResponse(id=request.id, failure=failure)
        async with self._sending:
            await self._send(answer)
        self._room.release()


async def patiently(score: Callable[[], Awaitable[scoring_pb2.ScoreResponse]]) -> scoring_pb2.ScoreResponse:
    """Offer an image until there is room for it."""
    while True:
        try:
            return await score()
        except BusyError:
            await asyncio.sleep(BUSY_SECONDS)
