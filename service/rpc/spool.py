"""Encoded files on their way in: written to a directory with a quota, gone when their answer has left."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from service.errors import BusyError, LimitError

MIB = 1 << 20
PROC = Path("/proc/self/fd")


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
            with self._opened() as file:
                async for part in parts:
                    size += len(part)
                    self._used += len(part)
                    self._check(size)
                    with _said():
                        await asyncio.to_thread(file.write, part)
                with _said():
                    file.flush()
                yield _path(file)
        finally:
            self._used -= size

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """A file without a name, which is gone with the process, where there is /proc; elsewhere one with a name."""
        with _said():
            named = partial(tempfile.NamedTemporaryFile, prefix="fullconv-")
            file = (tempfile.TemporaryFile if PROC.exists() else named)(dir=self._folder)
        with file:
            yield cast("BinaryIO", file)

    def _check(self, size: int) -> None:
        if size > self._quota:
            raise LimitError(
                f"data: expected a file of at most {self._quota / MIB:.0f} MiB, the server's spool, got more"
            )
        if self._used > self._quota:
            raise BusyError(f"spool: expected at most {self._quota / MIB:.0f} MiB of files on their way, got more")


def _path(file: BinaryIO) -> Path:
    return PROC / str(file.fileno()) if PROC.exists() else Path(file.name)


@contextmanager
def _said() -> Iterator[None]:
    """What the file system says, as an error of ours."""
    try:
        yield
    except OSError as error:
        raise BusyError(f"spool: the file cannot be kept: {error.strerror}") from None
