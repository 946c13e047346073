"""Writing of files that appear complete or not at all, and the suffixes of the formats of results."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from io import BufferedRandom, BufferedWriter, FileIO
from pathlib import Path
from tempfile import gettempdir
from typing import Any, BinaryIO

from fullconv.common.temporary import remove_leftovers, replace_folder, temporary

TABLE_SUFFIXES = (".csv", ".parquet", ".geojson")
"""The formats that leave out windows."""
GRID_SUFFIXES = (".npz", ".zarr", *TABLE_SUFFIXES, ".tif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TIFF_SUFFIXES = (".tif", ".tiff")
HEATMAP_SUFFIXES = (*PICTURE_SUFFIXES, *TIFF_SUFFIXES)
BOX_SUFFIXES = (".geojson", ".csv")
PAGE_SUFFIXES = (".html",)
RASTER_SUFFIX = ".tif"
"""The format of grids that may have a second file, see `names_file`."""

_remove_leftovers_once = cache(remove_leftovers)
"""Removes the leftovers in a directory, once in this process: a directory may hold very many files."""


def names_file(raster: Path) -> Path:
    """Return the path of the file beside a raster in which GDAL keeps the names of categories."""
    return raster.with_name(f"{raster.name}.aux.xml")


class OutputError(Exception):
    """An output file cannot be written; the message names the file and the reason."""


@contextmanager
def errors_of(name: Path) -> Iterator[None]:
    """Raise OutputError, which names an output, in place of an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{name}: cannot be written: {error.strerror or error}") from None


class _OutputFile(FileIO):
    """The temporary file behind an output. Its errors are OutputErrors that name the output."""

    def __init__(self, path: Path, name: Path, mode: str = "wb") -> None:
        self._name = name
        with errors_of(name):
            super().__init__(path, mode)

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (a buffer)
        """Write; raises OutputError."""
        with errors_of(self._name):
            return super().write(data)

    def close(self) -> None:
        """Close; raises OutputError."""
        with errors_of(self._name):
            super().close()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, which replaces `path` when the block ends and is deleted if the block raises.

    The file is on the disk before it has its name, so that it is complete also after a loss of power. Raises
    OutputError if the file cannot be written. Exceptions of the block pass unchanged.
    """
    _remove_leftovers_once(path.parent)
    with ExitStack() as opened:
        with errors_of(path):
            partial = opened.enter_context(temporary(path, lambda partial: partial.touch(exist_ok=False)))
        with BufferedWriter(_OutputFile(partial, path)) as file:
            yield file
            with errors_of(path):
                sync_file(file)
        with errors_of(path):
            partial.replace(path)


def sync_file(file: BinaryIO) -> None:
    """Wait until what was written is on the disk; raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the files of a folder are on the disk; raises OSError."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder, which replaces the folder `path` when the block ends and is removed if the block raises.

    Raises OutputError if the folder cannot be written.
    """
    _remove_leftovers_once(path.parent)
    with errors_of(path), temporary(path, Path.mkdir) as folder:
        yield folder
        replace_folder(folder, path, lambda _: None)


def make_folder_of(path: Path) -> None:
    """Make the folder of an output, if it does not exist; raises OutputError."""
    with errors_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def check_folder_of(path: Path) -> None:
    """Raise OutputError if the folder of an output does not exist or cannot be written."""
    with errors_of(path):
        with os.scandir(path.parent):
            pass
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def spool_file(path: Path) -> Iterator[BufferedRandom]:
    """Open a temporary file beside an output, for data that the output takes later; it is deleted at the block's end.

    Raises OutputError, which names the output, if the file cannot be written.
    """
    with ExitStack() as opened:
        with errors_of(path):
            partial = opened.enter_context(temporary(path, lambda partial: partial.touch(exist_ok=False)))
        with BufferedRandom(_OutputFile(partial, path, "r+b")) as file:
            yield file


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder among the temporary files, which no other user can read; it is removed at the block's end.

    Folders of processes that were killed are removed too. Raises OutputError if the folder cannot be made.
    """
    with errors_of(Path("TMPDIR")):
        folder = Path(gettempdir()) / "fullconv"
    _remove_leftovers_once(folder.parent)
    with ExitStack() as opened:
        with errors_of(folder.parent):
            path = opened.enter_context(temporary(folder, lambda path: path.mkdir(0o700)))
        yield path
