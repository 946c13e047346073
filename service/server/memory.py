"""Memory that an idle server returns to the system."""

import asyncio

from service import machine
from service.engine.registry import Registry
from service.rpc.calls import Calls

TRIM_SECONDS = 60.0
"""Seconds between two rounds."""
BUSY_BYTES = 64 << 20
"""Bytes of messages since the last round that make a server busy."""


class MemoryTrimmer:
    """Returns free memory to the system while few bytes arrive. A busy server would soon allocate it again."""

    def __init__(self, registry: Registry, calls: Calls) -> None:
        self._registry, self._calls = registry, calls
        self._received_bytes = 0

    async def trim_if_idle(self) -> None:
        """Trim the heap and the sessions' arenas, unless BUSY_BYTES bytes arrived since the last round."""
        received = self._calls.received_bytes - self._received_bytes
        self._received_bytes = self._calls.received_bytes
        if received < BUSY_BYTES:
            await asyncio.to_thread(self._registry.shrink_arena)
            await asyncio.to_thread(machine.trim_heap)
