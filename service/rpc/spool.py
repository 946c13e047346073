"""The spool: a directory with a quota for encoded files, from their arrival until their answer is sent."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from service.dispatch.admission import Admission, Claim
from service.errors import BusyError

PROC = Path("/proc/self/fd")


class Spool:
    """A directory that holds files; `admission` limits their bytes together, and those of each client."""

    def __init__(self, folder: Path, admission: Admission) -> None:
        self._folder, self._admission = folder, admission

    @asynccontextmanager
    async def file(self, parts: AsyncIterator[bytes], claim: Claim) -> AsyncIterator[Path]:
        """Write the parts into a file, and yield its path. The file is deleted at the end of the block.

        The bytes are added to the claim. Raises LimitError if this file alone exceeds the client's share, and BusyError
        if it does not fit beside other files, or cannot be written.
        """
        try:
            with self._opened() as file:
                async for part in parts:
                    self._admission.spool(claim, len(part))
                    with _as_busy_error():
                        await asyncio.to_thread(file.write, part)
                with _as_busy_error():
                    file.flush()
                yield _path(file)
        finally:
            self._admission.spool(claim, -claim.spool_bytes)

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


def _path(file: BinaryIO) -> Path:
    return PROC / str(file.fileno()) if PROC.exists() else Path(file.name)


@contextmanager
def _as_busy_error() -> Iterator[None]:
    """Raise BusyError in place of an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise BusyError(f"spool: the file cannot be written: {error.strerror}; retry later") from None
