"""The reading of an image's file, before it is scored.

Pictures of at most WHOLE_BYTES are read as a whole and scored from memory. Other files of this machine are read while
they are scored. Files in buckets are copied to the folder of temporary files first, if they are not pictures of this
size.
"""

import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EDQUOT, ENOENT, ENOSPC
from functools import partial
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import gettempdir
from typing import Any, NamedTuple

from fullconv.common.files import OutputError, scratch_folder
from fullconv.common.image_suffixes import PICTURES
from fullconv.common.special_files import special_kind
from fullconv.errors import ImageError, RequestError
from fullconv.images import Image
from service.batch.budget import Budget
from service.batch.retries import retry
from service.batch.stop import Stop, StoppedError
from service.batch.stores import check_size, in_store, whole_file
from service.batch.urls import is_url

WHOLE_BYTES = 32 << 20
"""Bytes of the largest file whose hash is in the results, and of the largest picture that is scored from memory."""
DISK_SHARE = 0.5
"""Share of the free space of the folder of temporary files that the copies of one process may take together."""


def _disk_budget() -> Budget:
    """Return the bytes that copies may take together; few if there is no folder of temporary files."""
    try:
        free = shutil.disk_usage(gettempdir()).free
    except OSError:  # the first copy reports it
        free = 0
    return Budget(max(1.0, DISK_SHARE * free))


@dataclass(frozen=True)
class Copies:
    """Makes folders for copies of files from buckets, and limits the bytes of these and of files in memory.

    Several threads may use it. `stop` ends their waits.
    """

    stop: Stop
    disk: Budget = field(default_factory=_disk_budget)
    memory: Budget = field(default_factory=lambda: Budget(math.inf))
    """The bytes of files that are read as a whole, until their images are scored."""

    @contextmanager
    def folder(self, size: int) -> Iterator[Path]:
        """Yield a new folder for `size` bytes, when there is space for them; raises OutputError and StoppedError."""
        with scratch_folder() as folder, self.disk.claim(size, self.stop.check):
            yield folder


@dataclass(frozen=True)
class ReadImage:
    """An image that can be scored, also several times."""

    path: Path
    """Its path on this machine; for a file in memory, its name."""
    size: int | None = None
    """Bytes of the file; None for a folder."""
    data: bytes | None = field(default=None, repr=False)
    """The file in memory; None: it is read from the path."""
    sha256: str | None = None
    seconds: float = 0.0
    """Seconds that reading took."""
    state: "_State | None" = None
    """The state of a file of this machine that is read while it is scored."""

    def check_unchanged(self) -> None:
        """Raise ReadError if the file has changed since its hash was computed."""
        if self.state is not None and _state_of(self.path) != self.state:
            raise ReadError(
                f"{self.path}: expected the same file until it was scored, got another one: score it again with "
                "--retry-failed"
            )

    @property
    def image(self) -> Image:
        """What a scorer takes."""
        return self.path if self.data is None else _NamedBytes(self.data, self.path.name)

    @property
    def held_bytes(self) -> int:
        """Bytes of the file in memory."""
        return 0 if self.data is None else len(self.data)


class ReadError(ImageError):
    """The file of an image cannot be read, or has changed meanwhile."""


class _State(NamedTuple):
    """What changes if a file is replaced or written."""

    number: int
    size: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> "_State":
        """Return the state of a file."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class _NamedBytes(BytesIO):
    """A file in memory with a name, which messages state."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def _state_of(path: Path) -> _State | None:
    """Return the state of a file; None if it has gone."""
    try:
        return _State.of(path.stat())
    except OSError:
        return None


@contextmanager
def read_image(location: str, size: int | None, copies: Copies) -> Iterator[ReadImage]:
    """Yield an image, given by its path or URL; raises ReadError if it cannot be read.

    `size` is the size of a file in a bucket as it was listed. Failures that may pass are tried again. Raises
    StoppedError if the job stops.
    """
    if is_url(location):
        with _from_store(location, size, copies) as image:
            yield image
    else:
        with _from_disk(Path(location), copies) as image:
            yield image


@contextmanager
def _from_disk(path: Path, copies: Copies) -> Iterator[ReadImage]:
    began, pause = time.monotonic(), copies.stop.pause
    found = _read(str(path), path.stat, pause)
    if kind := special_kind(found.st_mode):  # a read of it could block, or never end
        raise ReadError(f"{path}: expected a file or a folder, got {kind}")
    if not stat.S_ISREG(found.st_mode):
        yield ReadImage(path)
        return
    if found.st_size > WHOLE_BYTES:
        yield ReadImage(path, found.st_size, state=_State.of(found))
        return
    with copies.memory.claim(found.st_size, copies.stop.check):
        data = _read(str(path), path.read_bytes, pause)
        digest, size = sha256(data).hexdigest(), len(data)
        if path.suffix.lower() in PICTURES:
            yield ReadImage(path, size, data, digest, time.monotonic() - began)
            return
    del data  # such files may need others beside them, and are read from their paths
    yield ReadImage(path, size, sha256=digest, seconds=time.monotonic() - began, state=_State.of(found))


@contextmanager
def _from_store(url: str, size: int | None, copies: Copies) -> Iterator[ReadImage]:
    def read(work: Callable[[Any, str], Any]) -> Any:  # noqa: ANN401 (the work's own result)
        return _read(url, lambda: in_store(url, work), copies.stop.pause)

    began, name = time.monotonic(), PurePosixPath(url).name
    expected = size if size is not None else read(_size)
    if expected is not None and expected <= WHOLE_BYTES and PurePosixPath(name).suffix.lower() in PICTURES:
        with copies.memory.claim(expected, copies.stop.check):
            data = read(partial(whole_file, size=expected))
            yield ReadImage(Path(name), len(data), data, sha256(data).hexdigest(), time.monotonic() - began)
        return
    with copies.folder(expected or 0) as folder:
        path = folder / name
        read(partial(_copied, path=path, size=expected))
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        yield ReadImage(path, path.stat().st_size, sha256=digest, seconds=time.monotonic() - began)


def _size(files: Any, place: str) -> int | None:  # noqa: ANN401 (a file system)
    size: int | None = files.size(place)
    return size


def _copied(files: Any, place: str, path: Path, size: int | None) -> None:  # noqa: ANN401 (a file system)
    files.get_file(place, str(path))
    check_size(path.stat().st_size, size)


def _read(
    name: str,
    work: Callable[[], Any],
    pause: Callable[[float], object],
) -> Any:  # noqa: ANN401 (the work's own result)
    """Read something, again if the failure may pass; raises ReadError."""
    try:
        return retry(work, pause)
    except StoppedError:
        raise
    except RequestError as error:
        raise ReadError(str(error)) from None
    except Exception as error:  # the backends of fsspec raise errors of many kinds
        if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):  # the folder of temporary files is full
            raise OutputError(f"{gettempdir()}: cannot be written: {error.strerror}") from None
        raise ReadError(f"{name}: cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return why a file cannot be read. Backends raise FileNotFoundError with nothing but the file's name."""
    if isinstance(error, FileNotFoundError):
        return os.strerror(ENOENT)
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error) or repr(error)
