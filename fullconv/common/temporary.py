"""Temporary files and folders, which disappear also after their process was killed.

Each has a hidden name beside its output, and its process holds a lock on it. The system releases the lock when the
process ends, even if the process is killed. A file or folder with such a name and without a lock is therefore a
leftover, and the next process that writes into the same directory removes it. File systems without locks keep
leftovers.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.fullconv\.(?P<kind>new|old)", re.DOTALL)
"""Matches the names of temporary files and folders: `new` becomes the output, `old` was the output before."""

MAX_NAME_BYTES = 200
"""Bytes of an output's name in the name of its temporary file, for which file systems allow 255 bytes. The name of a
previous output is never cut, since it may be restored."""
announced: list[Callable[[Path], object]] = []
"""Functions that get each path that is to be removed if this process is killed, before it is made."""


def announce(path: Path) -> None:
    """Announce a path that is to be removed if this process is killed: a temporary one, or an empty folder."""
    for take in announced:
        take(path)


def hidden_path(target: Path, kind: str) -> Path:
    """Return a new hidden path beside `target`, of the kind `new` (the next output) or `old` (the previous output)."""
    name = target.name if kind == "old" else os.fsdecode(os.fsencode(target.name)[:MAX_NAME_BYTES])
    return target.with_name(f".{name}.{secrets.token_hex(4)}.fullconv.{kind}")


@contextmanager
def temporary(target: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Let `make` create a file or folder beside `target`, and yield its path. The path is removed at the block's end.

    The block may rename it. Raises OSError if the file or folder cannot be created.
    """
    with ExitStack() as held:
        yield _made(target, make, held)


@contextmanager
def locked(path: Path, *, shared: bool = False, writable: bool = False) -> Iterator[None]:
    """Hold the lock on a file or folder for the duration of the block; raises OSError if that is not possible.

    A shared lock excludes only those that are not shared. NFS locks a file only if it is opened as `writable`.
    """
    access = os.O_RDWR if writable else os.O_RDONLY
    descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def replace_folder(folder: Path, target: Path, check: Callable[[Path], object]) -> None:
    """Rename a folder to the target, in place of a folder; the old one is restored if that fails, else removed.

    `check` is called with the old folder when it has no name any more that others know. Raises OSError, and what
    `check` raises.
    """
    if not target.exists():
        folder.rename(target)
        return
    old = hidden_path(target, "old")
    with ExitStack() as held:
        with suppress(OSError):  # of a file system without locks
            held.enter_context(locked(target))
        target.rename(old)
        try:
            check(old)
            folder.rename(target)
        except BaseException:
            old.rename(target)
            raise
        remove(old)


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files and folders of ended processes from a directory.

    An old output gets its name back if its process ended before a new output had taken the name.
    """
    try:
        found = [(path, match) for path in directory.iterdir() if (match := LEFTOVER.fullmatch(path.name))]
    except OSError:  # there is no such directory, or it cannot be read
        return
    for path, match in found:
        with suppress(OSError), locked(path):
            if match["kind"] == "old" and not (directory / match["name"]).exists():
                path.rename(directory / match["name"])
            else:
                remove(path)


def _made(target: Path, make: Callable[[Path], object], held: ExitStack) -> Path:
    """Create a temporary file or folder, which is locked until `held` is closed, and then removed; returns its path."""
    while True:
        path = hidden_path(target, "new")
        announce(path)
        held.callback(remove, path)  # before it exists: a signal may come at any time
        make(path)
        try:
            held.enter_context(locked(path))
        except (BlockingIOError, FileNotFoundError):
            continue  # another process has taken it for a leftover, because it had no lock yet
        except OSError:  # this file system has no locks
            return path
        if path.exists():
            return path
