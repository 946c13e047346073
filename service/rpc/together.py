"""Small requests of models that are loaded, all in one thread: a turn of the interpreter serves several.

    come → begun: planned, decoded, their tiles submitted → scores there → finished → their answers handed over together

The thread reads few pixels at once and waits for nothing: all that a request waits for is submitted when it begins.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from service.engine.scheduler import Flow
from service.rpc.workers import outlived

MOST = 32
"""Requests that are looked after before what is finished is handed over."""

Finish = Callable[[], Any]
Begin = Callable[[], tuple[Finish, list[Future[Any]]]]
"""Begins a request: what ends it, and what that would wait for."""


@dataclass(eq=False)
class _Request:
    begin: Begin
    job: Flow
    answer: asyncio.Future[Any]
    finish: Finish | None = None
    awaited: list[Future[Any]] = field(default_factory=list)
    result: Any = None
    error: Exception | None = None
    queue: "SimpleQueue[_Request]" = field(kw_only=True)

    def step(self) -> bool:
        """Go on as far as can be without waiting; whether it is at its end."""
        try:
            if self.finish is None:
                self.job.begin()
                self.finish, self.awaited = self.begin()
            while self.awaited:
                future = self.awaited.pop()
                if not future.done():
                    future.add_done_callback(self._arrived)
                    return False
            self.result = self.finish()
        except Exception as error:
            self.error = error
            self.job.cancel()  # its tiles that still wait are for nobody
        return True

    def _arrived(self, _: Future[Any]) -> None:
        self.queue.put(self)


class Together:
    """The thread."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[_Request] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        Thread(target=self._serve, name=name, daemon=True).start()

    async def run(self, begin: Begin, job: Flow) -> Any:  # noqa: ANN401 (what `begin` makes)
        """Begin and finish a request; a caller that goes cancels its job."""
        self._loop = asyncio.get_running_loop()
        answer = self._loop.create_future()
        self._queue.put(_Request(begin, job, answer, queue=self._queue))
        return await outlived(answer, job)

    def _serve(self) -> None:
        while True:
            self._turn()

    def _turn(self) -> None:
        """Look after those that are there; none of them is kept while there is no other."""
        ended = [request for request in self._next() if request.step()]
        if ended and self._loop is not None:
            self._loop.call_soon_threadsafe(_hand_over, ended)

    def _next(self) -> Iterator[_Request]:
        """Those that are to be looked after now: one at the least."""
        yield self._queue.get()
        for _ in range(MOST - 1):
            try:
                yield self._queue.get_nowait()
            except Empty:
                return


def _hand_over(ended: list[_Request]) -> None:
    for request in ended:
        if request.error is not None:
            request.answer.set_exception(request.error)
        else:
            request.answer.set_result(request.result)
