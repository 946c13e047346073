"""Encoded files on their way in: written to a directory with a quota, gone when their answer has left."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.errors import BusyError, LimitError

MIB = 1 << 20


class Spool:
    """A directory that holds at most so many bytes."""

    def __init__(self, folder: Path, quota: int) -> None:
        self._folder, self._quota = folder, quota
        self._used = 0

    @asynccontextmanager
    async def file(self, parts: AsyncIterator[bytes]) -> AsyncIterator[Path]:
        """Write parts into a file that is there as long as the block.

        Raises LimitError if it alone is more than the quota, BusyError if there is no room beside others.
        """
        size = 0
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="fullconv-") as file:
                async for part in parts:
                    size += len(part)
                    self._used += len(part)
                    self._check(size)
                    await asyncio.to_thread(file.write, part)
                file.flush()
                yield Path(file.name)
        except OSError as error:
            raise BusyError(f"spool: the file cannot be kept: {error.strerror}") from None
        finally:
            self._used -= size

    def _check(self, size: int) -> None:
        if size > self._quota:
            raise LimitError(
                f"data: expected a file of at most {self._quota / MIB:.0f} MiB, the server's spool, got more"
            )
        if self._used > self._quota:
            raise BusyError(f"spool: expected at most {self._quota / MIB:.0f} MiB of files on their way, got more")
