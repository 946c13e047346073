"""ScoreLarge: one image that arrives in parts. Memory does not grow with the number of its rows.

start → the plan → rows in, rows out → the summary
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from fullconv.protos import scoring_pb2
from service import encode
from service.dispatch.admission import Claim
from service.dispatch.dispatcher import LargePicture, OpenLarge
from service.errors import OptionError
from service.images.allowed_directory import AllowedDirectory
from service.images.encoded import open_file
from service.rpc.spool import Spool
from service.rpc.stream_bridge import StreamBridge, streamed_picture
from service.scoring.options import OTSU, RequestedOptions
from service.scoring.outcome import Event, Progress

PROGRESS_SECONDS = 0.2
"""Smallest number of seconds between two messages of progress."""


def open_large(
    start: scoring_pb2.LargeImage,
    options: RequestedOptions,
    bridge: StreamBridge,
    spool: Spool,
    allowed: AllowedDirectory,
    claim: Claim,
) -> OpenLarge:
    """Return the context manager that opens the image of a call: a path, raw rows, or an encoded file in the spool.

    Raises OptionError for options that raw rows do not allow.
    """
    if not start.HasField("raw"):
        if start.path:
            return _by_path(start.path, options, allowed)
        return _spooled(start.name or "image", options, spool.file(bridge.parts(), claim))
    if start.path:
        raise OptionError("path: expected no raw pixels with it, got both")
    if len(options.scales) > 1 or options.mask == OTSU:
        field = "mask_otsu" if options.mask == OTSU else "scales"
        raise OptionError(f"{field}: expected none with raw rows, which can be read only once; send an encoded file")
    return _rows(start, options, bridge)


@asynccontextmanager
async def _by_path(
    path: str, options: RequestedOptions, allowed: AllowedDirectory
) -> AsyncIterator[Callable[[], LargePicture]]:
    yield lambda: LargePicture(allowed.picture(path, options.selection))


@asynccontextmanager
async def _rows(
    start: scoring_pb2.LargeImage, options: RequestedOptions, bridge: StreamBridge
) -> AsyncIterator[Callable[[], LargePicture]]:
    yield lambda: streamed_picture(start.name or "image", start.raw, bridge, options.selection)


@asynccontextmanager
async def _spooled(
    name: str, options: RequestedOptions, file: AbstractAsyncContextManager[Path]
) -> AsyncIterator[Callable[[], LargePicture]]:
    """Receive the whole file first."""
    async with file as path:
        yield lambda: LargePicture(open_file(path, options.selection, name=name))


class Delivery:
    """Sends the events of one call to its client, and limits the rate of messages of progress."""

    def __init__(self, bridge: StreamBridge) -> None:
        self._bridge = bridge
        self._last_progress = 0.0

    def deliver(self, event: Event) -> None:
        """Send an event; returns when the client has room for the next."""
        if isinstance(event, Progress):
            now = time.monotonic()
            if now - self._last_progress <= PROGRESS_SECONDS and event.tiles != event.total:
                return
            self._last_progress = now
        for part in encode.large_parts(event):
            self._bridge.send(part)
