"""A bridge between the client of ScoreLarge, on the event loop, and the thread that scores: each waits for the other.

The thread requests the next part when it needs it, and waits while the client does not read the messages that it sends.
Therefore neither side gets ahead of the other by more than gRPC's own buffers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import numpy as np

from fullconv.protos import scoring_pb2
from service.dispatch.dispatcher import LargePicture
from service.dispatch.places import Place
from service.errors import CancelledRunError, ImageError, OptionError
from service.images.arrays import open_array
from service.images.picture import PageSelection
from service.images.pixels import SampleArray
from service.rpc.streams import Send
from service.rpc.upload import Upload

Value = TypeVar("Value")
FIRST_PAUSE_SECONDS, PAUSE_SECONDS = 0.02, 0.25
"""Seconds of waiting after which an image gives up its place for scoring, and between two checks after that."""
SKIPPED_ROWS = 256
"""Rows that are skipped at once."""
Requests = AsyncIterator[scoring_pb2.ScoreLargeRequest]


class StreamBridge:
    """One call of ScoreLarge, from the thread's side: `receive` and `send` block.

    A part is received at the place `receiving`. While the client keeps the thread waiting, the image gives its place
    `scoring` to other images. `upload` says when the client is too slow. Made in the task of the call.
    """

    def __init__(self, requests: Requests, send: Send, upload: Upload, receiving: Place, scoring: Place) -> None:
        self._requests, self._send, self._upload = requests, send, upload
        self._receiving, self._scoring = receiving, scoring
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    def receive(self) -> bytes | None:
        """Return the next part; None when the client has sent everything. Raises IdleError if it is too slow."""
        return self._wait(self._resumed(self._next_part()))

    def send(self, part: scoring_pb2.ScoreLargeResponse) -> None:
        """Send a part of the answer; returns when there is room for the next part."""
        self._wait(self._resumed(self._until_done(self._send(part), self._pause)))

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield every part, on the event loop."""
        while (part := await self._next_part()) is not None:
            yield part

    async def _next_part(self) -> bytes | None:
        """Return the data of the next part; None at the end. Raises OptionError for a part without data."""
        try:
            await self._until_done(self._receiving.take(), self._pause)
            began = self._loop.time()
            next_request = anext(self._requests, None)
            request = await self._until_done(next_request, lambda: self._pause(self._loop.time() - began))
        finally:
            self._receiving.free()
        if request is None:
            return None
        if request.WhichOneof("part") != "data":
            raise OptionError(f"part: expected data after start, got {request.WhichOneof('part') or 'nothing'}")
        self._upload.add(len(request.data), self._loop.time() - began)
        return bytes(request.data)

    async def _resumed(self, work: Awaitable[Value]) -> Value:
        """Do some work, and then take the place for scoring again if the image held it before."""
        was_held = self._scoring.is_held
        value = await work
        if was_held:
            await self._until_done(self._scoring.take(), self._check_call)
        return value

    def _pause(self, seconds: float | None = None) -> None:
        """Leave the place for scoring to other images. Raises IdleError if the client is too slow.

        `seconds`: how long it has sent nothing. Default: None, the client is not waited for.
        """
        self._scoring.free()
        self._check_call()
        if seconds is not None:
            self._upload.check(seconds)

    async def _until_done(self, work: Awaitable[Value], on_pause: Callable[[], None]) -> Value:
        """Wait for some work, and call `on_pause` regularly until then. If that raises, the work is cancelled."""
        doing = asyncio.ensure_future(work)
        try:
            seconds = FIRST_PAUSE_SECONDS
            while not (await asyncio.wait({doing}, timeout=seconds))[0]:
                on_pause()
                seconds = PAUSE_SECONDS
        finally:
            doing.cancel()
        return doing.result()

    def _check_call(self) -> None:
        """Raise CancelledRunError if the call has ended."""
        if self._task is not None and self._task.cancelling():
            raise CancelledRunError("the client has gone")

    def _wait(self, work: Coroutine[Any, Any, Value]) -> Value:
        if self._loop.is_closed():
            work.close()
            raise CancelledRunError("the server has stopped")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:  # the call has ended
            raise CancelledRunError("the client has gone") from None


class StreamedRows:
    """Raw rows as they arrive, in parts of whole rows; checks that their number equals the announced number."""

    block_rows = 1

    def __init__(self, name: str, raw: scoring_pb2.RawImage, bridge: StreamBridge) -> None:
        self._name, self._bridge, self._height = name, bridge, raw.height
        self._shape, self._dtype = (raw.width, raw.channels), np.dtype(raw.dtype).newbyteorder("<")
        self._row_bytes = raw.width * raw.channels * self._dtype.itemsize
        self._waiting = memoryview(b"")
        """Bytes that have arrived and that `_take` has not returned yet."""
        self._rows_taken = 0

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, width, channels); raises ImageError if the stream ends before them."""
        self._skip_to(first)
        return np.frombuffer(self._take(stop - first), self._dtype).reshape(-1, *self._shape)

    def finish(self) -> None:
        """Read to the end; raises ImageError unless the stream has exactly the announced number of rows."""
        self._skip_to(self._height)
        if self._waiting or self._bridge.receive() is not None:
            raise ImageError(f"{self._name}: data: expected {self._height} rows, got more")

    def _skip_to(self, row: int) -> None:
        while self._rows_taken < row:
            self._take(min(SKIPPED_ROWS, row - self._rows_taken))

    def _take(self, rows: int) -> bytes | memoryview:
        """Return the next rows: a view of the part that they arrived in, or a copy if they arrived in several parts."""
        wanted, size, taken = rows * self._row_bytes, 0, []
        while size < wanted:
            if not self._waiting:
                self._waiting = memoryview(self._receive(size))
            taken.append(self._waiting[: wanted - size])
            self._waiting = self._waiting[wanted - size :]
            size += len(taken[-1])
        self._rows_taken += rows
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _receive(self, size: int) -> bytes:
        """Return the next part; `size` bytes before it have not been returned by `_take` yet."""
        part = self._bridge.receive()
        if part is None:
            got = self._rows_taken + size // self._row_bytes
            raise ImageError(f"{self._name}: data: expected {self._height} rows, got {got}: the stream ended")
        if not part or len(part) % self._row_bytes:
            raise ImageError(
                f"{self._name}: data: expected whole rows of {self._row_bytes} bytes (width × channels × bytes of the "
                f"dtype), got {len(part)} bytes"
            )
        return part


def streamed_picture(
    name: str, raw: scoring_pb2.RawImage, bridge: StreamBridge, selection: PageSelection
) -> LargePicture:
    """Return an image whose rows arrive over a bridge; raises ImageError if the announced pixels are no image."""
    if raw.data:
        raise ImageError(f"{name}: raw.data: expected none, since the rows follow, got {len(raw.data)} bytes")
    picture = open_array(name, (raw.height, raw.width, raw.channels), raw.dtype, lambda: rows, selection)
    rows = StreamedRows(name, raw, bridge)
    return LargePicture(picture, rows.finish)
