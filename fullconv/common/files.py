"""Writing of files that appear complete or not at all, and the suffixes of the formats of results."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any, BinaryIO

GRID_SUFFIXES = (".npz",)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class OutputError(Exception):
    """An output file cannot be written; the message names the file and the reason."""


class _OutputFile(FileIO):
    """The temporary file behind an output. Its errors are OutputErrors that name the output."""

    def __init__(self, path: Path, name: Path) -> None:
        self._name = name
        with self._errors_by_name():
            super().__init__(path, "wb")

    @contextmanager
    def _errors_by_name(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._name}: cannot be written: {error.strerror or error}") from None

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (a buffer)
        """Write; raises OutputError."""
        with self._errors_by_name():
            return super().write(data)

    def close(self) -> None:
        """Close; raises OutputError."""
        with self._errors_by_name():
            super().close()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, which replaces `path` when the block ends and is deleted if the block raises.

    Raises OutputError if the file cannot be written. Exceptions of the block pass unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    output = _OutputFile(partial, path)
    try:
        with BufferedWriter(output) as file:
            yield file
        try:
            partial.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
