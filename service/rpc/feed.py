"""A stream between a client on the event loop and the thread that scores: either waits for the other.

The thread asks for the next part when it needs one, and is held up while the client does not take what it sends. So
neither side is ahead of the other by more than what gRPC itself holds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import numpy as np

from fullconv.protos import scoring_pb2
from service.errors import CancelledRunError, IdleError, ImageError, OptionError
from service.images.arrays import open_array
from service.images.picture import PageSelection, Picture
from service.images.pixels import SampleArray

Result = TypeVar("Result")
ROWS = 256
"""That are passed over at once."""
Requests = AsyncIterator[scoring_pb2.ScoreLargeRequest]
Send = Callable[[scoring_pb2.ScoreLargeResponse], Coroutine[Any, Any, None]]


class Feed:
    """One call of ScoreLarge, from the thread's side: `receive` and `send` block, the former for so many seconds."""

    def __init__(self, requests: Requests, send: Send, idle: float) -> None:
        self._requests, self._send, self._idle = requests, send, idle
        self._loop = asyncio.get_running_loop()

    def receive(self) -> bytes | None:
        """The next part; None when the client has sent everything."""
        return self._wait(next_part(self._requests, self._idle))

    def send(self, part: scoring_pb2.ScoreLargeResponse) -> None:
        """Send a part of the answer; returns when there is room for another one."""
        self._wait(self._send(part))

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            work.close()
            raise CancelledRunError("the server has stopped")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:  # whoever called is gone
            raise CancelledRunError("the client has gone") from None


async def within(idle: float, work: Awaitable[Result], what: str) -> Result:
    """Wait for the client's next step, but not for ever; raises IdleError."""
    try:
        return await asyncio.wait_for(work, idle)
    except TimeoutError:
        raise IdleError(f"client: expected it {what} within {idle:g} seconds; send and take without a stop") from None


async def parts(requests: Requests, idle: float) -> AsyncIterator[bytes]:
    """The data of every part that comes, to the end."""
    while (part := await next_part(requests, idle)) is not None:
        yield part


async def next_part(requests: Requests, idle: float) -> bytes | None:
    """The next part's data; None at the end. Raises OptionError for a part that is no data."""
    request = await within(idle, anext(requests, None), "to send the next part")
    if request is None:
        return None
    if request.WhichOneof("part") != "data":
        raise OptionError(f"part: expected data after start, got {request.WhichOneof('part') or 'nothing'}")
    return bytes(request.data)


class StreamedRows:
    """Raw rows as they come, in parts of whole rows; checks that they add up."""

    block_rows = 1

    def __init__(self, name: str, raw: scoring_pb2.RawImage, feed: Feed) -> None:
        self._name, self._feed, self._height = name, feed, raw.height
        self._shape, self._dtype = (raw.width, raw.channels), np.dtype(raw.dtype).newbyteorder("<")
        self._row_bytes = raw.width * raw.channels * self._dtype.itemsize
        self._waiting = memoryview(b"")
        """What came and was not handed on yet."""
        self._passed = 0

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) as (rows, width, channels); raises ImageError where the stream has no such rows."""
        self._pass_over(first)
        return np.frombuffer(self._take(stop - first), self._dtype).reshape(-1, *self._shape)

    def finish(self) -> None:
        """Read on to the end; raises ImageError unless there are exactly as many rows as were announced."""
        self._pass_over(self._height)
        if self._waiting or self._feed.receive() is not None:
            raise ImageError(f"{self._name}: data: expected {self._height} rows, got more")

    def _pass_over(self, row: int) -> None:
        while self._passed < row:
            self._take(min(ROWS, row - self._passed))

    def _take(self, rows: int) -> bytes | memoryview:
        """The next rows: a view of the part that they came in, or a copy where they came in several."""
        wanted, size, taken = rows * self._row_bytes, 0, []
        while size < wanted:
            if not self._waiting:
                self._waiting = memoryview(self._receive(size))
            taken.append(self._waiting[: wanted - size])
            self._waiting = self._waiting[wanted - size :]
            size += len(taken[-1])
        self._passed += rows
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _receive(self, size: int) -> bytes:
        """The next part, after so many bytes that were not handed on yet."""
        part = self._feed.receive()
        if part is None:
            got = self._passed + size // self._row_bytes
            raise ImageError(f"{self._name}: data: expected {self._height} rows, got {got}: the stream ended")
        if not part or len(part) % self._row_bytes:
            raise ImageError(
                f"{self._name}: data: expected whole rows of {self._row_bytes} bytes (width × channels × bytes of the "
                f"dtype), got {len(part)} bytes"
            )
        return part


def streamed(
    name: str, raw: scoring_pb2.RawImage, feed: Feed, selection: PageSelection
) -> tuple[Picture, StreamedRows]:
    """An image whose rows come through a feed, and the rows; raises ImageError if it cannot be one."""
    if raw.data:
        raise ImageError(f"{name}: raw.data: expected none, since the rows follow, got {len(raw.data)} bytes")
    picture = open_array(name, (raw.height, raw.width, raw.channels), raw.dtype, lambda: rows, selection)
    rows = StreamedRows(name, raw, feed)
    return picture, rows
