"""The spool: a directory with a quota for encoded files, from their arrival until their answer is sent."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from service.errors import BusyError, LimitError
from service.limits import MIB

PROC = Path("/proc/self/fd")


class Spool:
    """A directory that holds files of at most `quota` bytes together."""

    def __init__(self, folder: Path, quota: int) -> None:
        self._folder, self._quota = folder, quota
        self._used = 0

    @asynccontextmanager
    async def file(self, parts: AsyncIterator[bytes]) -> AsyncIterator[Path]:
        """Write the parts into a file, and yield its path. The file is deleted at the end of the block.

        Raises LimitError if this file alone exceeds the quota, and BusyError if it does not fit beside other files, or
        cannot be written.
        """
        size = 0
        try:
            with self._opened() as file:
                async for part in parts:
                    size += len(part)
                    self._used += len(part)
                    self._check(size)
                    with _as_busy_error():
                        await asyncio.to_thread(file.write, part)
                with _as_busy_error():
                    file.flush()
                yield _path(file)
        finally:
            self._used -= size

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open a new file, which is deleted at the end of the block.

        If there is /proc, the file has no name, so that it also disappears if the process is killed.
        """
        with _as_busy_error():
            named = partial(tempfile.NamedTemporaryFile, prefix="fullconv-")
            file = (tempfile.TemporaryFile if PROC.exists() else named)(dir=self._folder)
        with file:
            yield cast("BinaryIO", file)

    def _check(self, size: int) -> None:
        if size > self._quota:
            raise LimitError(
                f"data: expected a file of at most {self._quota / MIB:.0f} MiB, the size of the spool, got more"
            )
        if self._used > self._quota:
            raise BusyError(
                f"spool: expected at most {self._quota / MIB:.0f} MiB of files at the same time, got more: retry later"
            )


def _path(file: BinaryIO) -> Path:
    return PROC / str(file.fileno()) if PROC.exists() else Path(file.name)


@contextmanager
def _as_busy_error() -> Iterator[None]:
    """Raise BusyError in place of an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise BusyError(f"spool: the file cannot be written: {error.strerror}: retry later") from None
