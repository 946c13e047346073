"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class OutputError(Exception):
    """An output cannot be written; the message says which and why."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing; it takes its name when the block ends well, and is gone when it does not.

    Raises OutputError if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
