"""Where a job's results are written: a directory, or a bucket that fsspec knows by the protocol of its URL.

Every file appears as a whole: in a directory, and in a store that has folders, by a rename; in a bucket by the store's
own put, which shows an object when its last byte has arrived. Of a folder, such as a Zarr grid, a store gets the
metadata last.

Failures of a bucket that may pass are tried again (`retries`). Names are relative, with "/" between their parts.
"""

import os
import posixpath
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from errno import ENOSYS, ENOTSUP, EPERM
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol, TypeVar

import fsspec

from fullconv.common.files import OutputError, atomic_write, make_folder_of, scratch_folder, sync_file
from fullconv.common.temporary import temporary
from fullconv.common.text import printable
from fullconv.errors import RequestError
from service.batch.retries import is_lasting, retry
from service.batch.stop import StoppedError
from service.batch.urls import check_no_password, is_url

ZARR_METADATA = "zarr.json"
WRITE_SECONDS, LEAST_RATE = 120.0, 128 << 10
"""A write into a bucket fails after WRITE_SECONDS, and a second for each LEAST_RATE bytes."""
WITH_FOLDERS = {"file", "local", "ftp", "sftp", "ssh", "smb", "hdfs"}
"""Protocols of fsspec whose files need a folder that exists, show while they are written, and can be renamed."""

Value = TypeVar("Value")


class UnreachableError(OutputError):
    """A bucket has refused something again and again, for a reason that may pass."""


class Store(Protocol):
    """A place for results."""

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder, without hidden ones; empty if it does not exist."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if it does not exist. Raises OutputError."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of an existing one; raises OutputError."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether it was written. Raises OutputError."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with its files, if it exists; raises OutputError."""

    def output(self, name: str) -> AbstractContextManager[Path]:
        """Yield a path at which the block writes a file or a folder as a whole, which is then at this place."""


class LocalStore:
    """Results in a directory, which is made if it does not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder."""
        try:
            return {path.name for path in (self.root / folder).iterdir() if not path.name.startswith(".")}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise OutputError(f"{self.root / folder}: cannot be listed: {error.strerror or error}") from None

    def read(self, name: str) -> bytes | None:
        """Return a file's content."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"{self.root / name}: cannot be read: {error.strerror or error}") from None

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        path = self.root / name
        make_folder_of(path)
        with atomic_write(path) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether it was written."""
        path = self.root / name
        make_folder_of(path)
        try:
            with temporary(path, Path.touch) as partial:
                with partial.open("wb") as file:
                    file.write(data)
                    sync_file(file)
                os.link(partial, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (EPERM, ENOTSUP, ENOSYS):  # some file systems have no links
                raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
            if path.exists():
                return False
            self.write(name, data)
        return True

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with its files."""
        try:
            shutil.rmtree(self.root / folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{self.root / folder}: cannot be removed: {error.strerror or error}") from None

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Yield the place itself: the writers of grids make their files appear as a whole."""
        path = self.root / name
        make_folder_of(path)
        yield path


class RemoteStore:
    """Results in a bucket, or in another place of fsspec. Grids are written on this machine first."""

    def __init__(self, url: str, pause: Callable[[float], object] = time.sleep) -> None:
        """Open the place; `pause` waits between tries, and may raise to stop. Raises RequestError and OutputError."""
        self._url = url.rstrip("/")
        self._pause = pause
        files, self._root = self._tried("", "opened", lambda: filesystem_of(self._url))
        self._has_folders = has_folders(files)

    @property
    def _files(self) -> Any:  # noqa: ANN401 (fsspec has no types)
        """The file system of the calling thread, which fsspec keeps: some, such as SFTP, serve one thread alone."""
        return filesystem_of(self._url)[0]

    def _place(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder."""

        def listed() -> set[str]:
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._place(folder), detail=False)
            except FileNotFoundError:
                return set()
            names = {posixpath.basename(place) for place in found if not place.endswith("/")}  # "/": empty folders
            return {name for name in names if not name.startswith(".")}

        names: set[str] = self._tried(folder, "listed", listed)
        return names

    def read(self, name: str) -> bytes | None:
        """Return a file's content."""

        def content() -> bytes | None:
            place = self._place(name)
            self._files.invalidate_cache(place)  # another run may have written the file since it was listed
            try:
                return whole_file(self._files, place, self._files.size(place))
            except FileNotFoundError:
                return None

        data: bytes | None = self._tried(name, "read", content)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self._tried(name, "written", partial(self._pipe, data, self._place(name)))

    def _pipe(self, data: bytes, place: str, mark: str = "partial") -> None:
        with self._whole(place, mark) as path:
            self._files.pipe_file(path, data, **self._limit(len(data)))

    @contextmanager
    def _whole(self, place: str, mark: str = "partial") -> Iterator[str]:
        """Yield where to write a file so that it is at its place, with all its bytes, when the block has ended.

        What a killed run has left has the same `mark`, and is replaced. Runs that do not exclude each other have marks
        of their own.
        """
        if not self._has_folders:
            yield place
            return
        folder, name = posixpath.split(place)
        hidden = posixpath.join(folder, f".{name}.{mark}")
        self._files.makedirs(folder, exist_ok=True)
        try:
            yield hidden
            self._rename(hidden, place)
        except BaseException:
            with suppress(Exception):  # the first error counts
                self._files.rm_file(hidden)
            raise

    def _rename(self, hidden: str, place: str) -> None:
        try:
            self._files.mv(hidden, place)
        except Exception:  # each backend has its own error, also for stores that never replace a file by a rename
            if not self._files.exists(place):
                raise
            self._files.rm_file(place)
            self._files.mv(hidden, place)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether it was written.

        A store that does not know exclusive creation writes the file. If the store's answer was lost, the file may have
        been written although False is returned. Raises OutputError.
        """
        place = self._place(name)

        def created() -> bool:
            if self._has_folders:
                if self._files.exists(place):
                    return False
                self._pipe(data, place, token_hex(4))
                return True
            try:
                self._files.pipe_file(place, data, mode="create", **self._limit(len(data)))
            except Exception as error:  # stores refuse an existing file, and the mode, with different errors
                self._files.invalidate_cache(place)
                if self._files.exists(place):
                    return False
                if getattr(error, "errno", None) != ENOSYS:
                    raise
                self._files.pipe_file(place, data, **self._limit(len(data)))
            return True

        return bool(self._tried(name, "written", created))

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Yield a path in a temporary directory; what is there at the end of the block is sent to the store."""
        with scratch_folder() as folder:
            path, top = folder / posixpath.basename(name), posixpath.dirname(self._place(name))
            yield path
            for file in _files_in(path):
                place = posixpath.join(top, *file.relative_to(folder).parts)
                self._tried(name, "written", partial(self._put, file, place))

    def _put(self, file: Path, place: str) -> None:
        with self._whole(place) as path:
            self._files.put_file(str(file), path, **self._limit(file.stat().st_size))

    def _limit(self, size: int) -> dict[str, float]:
        """Return the option that limits the time of a write, which only fsspec's asynchronous file systems have.

        s3fs itself waits without limit for a server that does not ask for the body of a PUT (100 Continue).
        """
        return {"timeout": WRITE_SECONDS + size / LEAST_RATE} if self._files.async_impl else {}

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        self._removed(name, self._files.rm_file)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with its files."""
        self._removed(folder, partial(self._files.rm, recursive=True))

    def _removed(self, name: str, remove: Callable[[str], object]) -> None:
        def removed() -> None:
            self._files.invalidate_cache()
            try:
                remove(self._place(name))
            except FileNotFoundError:
                return

        self._tried(name, "removed", removed)

    def _tried(self, name: str, done: str, work: Any) -> Any:  # noqa: ANN401 (the work's own result)
        """Do work with the store, again if it fails for a reason that may pass; raises OutputError."""
        try:
            return retry(lambda: in_store(self._url, lambda _files, _root: work()), self._pause)
        except (StoppedError, RequestError):
            raise
        except Exception as error:  # the backends of fsspec raise errors of many kinds
            kind = OutputError if is_lasting(error) else UnreachableError
            place = posixpath.join(self._url, name).rstrip("/")
            raise kind(f"{place}: cannot be {done}: {printable(str(error) or repr(error))}") from None


def open_store(place: str, pause: Callable[[float], object] = time.sleep) -> Store:
    """Return the store at a path or URL; `pause` waits between tries, and may raise to stop.

    Raises RequestError if a URL names no bucket or folder, or if its backend is not installed, and OutputError if a
    connection to it fails.
    """
    if not is_url(place):
        return LocalStore(Path(place))
    if not place.partition("://")[2].strip("/"):
        raise RequestError(f"out: expected a URL with a bucket or a folder, got {place!r}")
    return RemoteStore(place, pause)


def filesystem_of(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises RequestError if its backend is not installed, and if the URL has a password. Some backends connect, and raise
    their own errors.
    """
    check_no_password(url)
    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise RequestError(f"{url}: expected a URL that fsspec can open: {error}") from None
    return files, str(path)


def in_store(url: str, work: Callable[[Any, str], Value]) -> Value:
    """Do work with the file system of a URL and the path in it.

    If the work fails, for a reason that may pass, in a store that has folders, the next work opens a new connection:
    the old one may have ended.
    """
    files, path = filesystem_of(url)
    try:
        return work(files, path)
    except Exception as error:
        if has_folders(files) and not is_lasting(error):
            files.clear_instance_cache()
        raise


def has_folders(files: Any) -> bool:  # noqa: ANN401 (a file system)
    """Return whether files of a store are in folders."""
    protocol = files.protocol
    return not WITH_FOLDERS.isdisjoint([protocol] if isinstance(protocol, str) else protocol)


def whole_file(files: Any, place: str, size: int | None) -> bytes:  # noqa: ANN401 (a file system)
    """Return a file's content; raises OSError if it has another size than the store states."""
    data = bytes(files.cat_file(place))
    check_size(len(data), size)
    return data


def check_size(got: int, expected: int | None) -> None:
    """Raise OSError unless a file has the size that its store states, if it states one."""
    if expected is not None and got != expected:
        raise OSError(f"expected {expected} bytes, got {got}")


def _files_in(path: Path) -> list[Path]:
    """Return the files that belong to an output: those beside it, and of a folder all files, its own metadata last."""
    files = [file for file in sorted(path.parent.rglob("*")) if file.is_file()]
    return sorted(files, key=lambda file: (file == path, file == path / ZARR_METADATA))
