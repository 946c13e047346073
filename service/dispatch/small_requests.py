"""Handles small requests for loaded models in one thread.

In this way, several requests are served per acquisition of the interpreter lock.

    queue → begin: planned, decoded, tiles submitted → scores arrive → finish → answers handed over together

The thread reads few pixels at a time and never waits: everything that a request waits for is submitted by `begin`.
"""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

from service.dispatch.workers import wait_after_cancel
from service.engine.scheduler import Flow

REQUESTS_PER_ROUND = 32
"""Largest number of requests that are advanced before finished answers are handed over."""


class SmallTask(Protocol):
    """The work of one request, in two steps, neither of which waits."""

    def begin(self) -> Sequence[Future[Any]]:
        """Begin; returns the futures on which `finish` depends."""

    def finish(self) -> None:
        """Finish, once all futures that `begin` returned are done."""


@dataclass(eq=False)
class _Request:
    """A task in the queue, and its progress."""

    task: SmallTask
    flow: Flow
    answer: "asyncio.Future[None]"
    queue: "SimpleQueue[_Request]"
    has_begun: bool = False
    awaited: list[Future[Any]] = field(default_factory=list)
    error: Exception | None = None

    def step(self) -> bool:
        """Advance as far as possible without waiting; returns whether the request has ended."""
        try:
            if not self.has_begun:
                self.has_begun = True
                self.flow.begin()
                self.awaited = list(self.task.begin())
            while self.awaited:
                future = self.awaited.pop()
                if not future.done():
                    future.add_done_callback(self._requeue)
                    return False
            self.task.finish()
        except Exception as error:
            self.error = error
            self.flow.cancel()  # the scores of its waiting tiles are not needed
        return True

    def _requeue(self, _: Future[Any]) -> None:
        self.queue.put(self)


class SmallRequestWorker:
    """One thread that advances small requests in turn."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[_Request] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        Thread(target=self._serve, name=name, daemon=True).start()

    async def run(self, task: SmallTask, flow: Flow) -> None:
        """Begin and finish a task. If the caller is cancelled, the flow is cancelled too."""
        self._loop = asyncio.get_running_loop()
        answer = self._loop.create_future()
        self._queue.put(_Request(task, flow, answer, self._queue))
        await wait_after_cancel(answer, flow)

    def _serve(self) -> None:
        while True:
            self._advance_batch()

    def _advance_batch(self) -> None:
        """Advance the requests in the queue.

        This is a method of its own, so that no local variable keeps a request in memory while the thread waits.
        """
        ended = [request for request in self._take() if request.step()]
        if ended and self._loop is not None:
            self._loop.call_soon_threadsafe(_hand_over, ended)

    def _take(self) -> Iterator[_Request]:
        """Wait for a request, then yield all requests that are in the queue."""
        yield self._queue.get()
        for _ in range(REQUESTS_PER_ROUND - 1):
            try:
                yield self._queue.get_nowait()
            except Empty:
                return


def _hand_over(ended: list[_Request]) -> None:
    for request in ended:
        if request.error is not None:
            request.answer.set_exception(request.error)
        else:
            request.answer.set_result(None)
