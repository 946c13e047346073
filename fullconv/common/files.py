"""Files that appear whole or not at all, and the suffixes of the formats that there are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any, BinaryIO

GRIDS = (".npz",)
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes of what grids and heatmaps are written as."""


class OutputError(Exception):
    """An output cannot be written; the message says which and why."""


class _Output(FileIO):
    """The file behind an output, whose errors are OutputError by the output's name."""

    def __init__(self, path: Path, name: Path) -> None:
        self._output = name
        with self._named():
            super().__init__(path, "wb")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._output}: cannot be written: {error.strerror or error}") from None

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (a buffer)
        """Write; raises OutputError."""
        with self._named():
            return super().write(data)

    def close(self) -> None:
        """Close; raises OutputError."""
        with self._named():
            super().close()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing; it takes its name when the block ends well, and is gone when it does not.

    Raises OutputError if it cannot be written; other errors of the block stay what they are.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    output = _Output(partial, path)
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
