"""Work that the server repeats while it runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from service.log import log


@asynccontextmanager
async def repeated(work: Callable[[], Awaitable[None]], seconds: float) -> AsyncIterator[None]:
    """Do some work now and every `seconds` seconds for as long as the block; only once for 0 seconds."""

    async def repeat() -> None:
        while True:
            try:
                await work()
            except Exception:  # a bug in one round must not end all further rounds
                log.exception("bug")
            if not seconds:
                return
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
