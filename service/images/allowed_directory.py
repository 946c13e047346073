"""The directory whose image files requests may name by their paths.

A path is relative, with "/" between its parts, and nothing in it is decoded. The directories are opened part by part.
No part may be "..", a symbolic link, or anything but a directory or, at the end, a regular file. Thus no path leads out
of the directory, even if the directory tree changes at the same time.
"""

import errno
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from weakref import finalize

from service.errors import NotFoundError
from service.images.files import open_path
from service.images.picture import FIRST_PAGE, PageSelection, Picture

PROC = Path("/proc/self/fd")
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_LETTERS, MAX_PART_BYTES = 4096, 255
"""Largest length of a path in characters, and of one of its parts in bytes."""
NOT_FOUND = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL}
"""Errors of open(2) for a file that does not exist. Other errors are failures of the server."""


@dataclass(frozen=True)
class AllowedDirectory:
    """The directory. Default: None, requests may not name files."""

    root: Path | None = None

    def picture(self, path: str, selection: PageSelection = FIRST_PAGE) -> Picture:
        """Open the image at a path; raises NotFoundError if there is no such file, ImageError if it is no image."""
        if self.root is None:
            raise NotFoundError("path: expected an image in the message: this server was started without --images")
        descriptor = _open_regular_file(self.root, path)
        try:
            picture = open_path(PROC / str(descriptor), selection, name=path.rpartition("/")[2], alone=True)
        except BaseException:
            os.close(descriptor)
            raise
        finalize(picture, os.close, descriptor)
        return picture


def _open_regular_file(root: Path, path: str) -> int:
    """Return a descriptor of the file at a path below the directory `root`; raises NotFoundError."""
    parts = path.split("/")
    if len(path) > MAX_LETTERS or not all(_is_file_name(part) for part in parts):
        raise NotFoundError(f"path: expected a path below the server's images, as a/b.png, got {path[:80]!r}")
    try:
        with ExitStack() as folders:
            folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            folders.callback(os.close, folder)
            for part in parts[:-1]:
                folder = os.open(part, DIRECTORY_FLAGS, dir_fd=folder)
                folders.callback(os.close, folder)
            descriptor = os.open(parts[-1], FILE_FLAGS, dir_fd=folder)
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_FOUND:
            raise
        raise _no_file(path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path)
    return descriptor


def _no_file(path: str) -> NotFoundError:
    return NotFoundError(f"path: no file {path[:80]!r} below the server's images")


def _is_file_name(part: str) -> bool:
    if part in ("", ".", "..") or "\0" in part:
        return False
    return len(part.encode("utf-8", "surrogatepass")) <= MAX_PART_BYTES
