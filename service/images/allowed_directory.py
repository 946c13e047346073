"""Image files below one directory, which requests may name.

A name is a relative path, / between its parts, taken as it is: nothing in it is decoded. It is walked part by part
from the directory on, and no part may be "..", a link, or anything but a directory or, at the end, a regular file. So
no name leads anywhere else, whatever happens to the tree meanwhile.
"""

import errno
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from weakref import finalize

from service.errors import NotFoundError
from service.images.encoded import open_file
from service.images.picture import FIRST_PAGE, PageSelection, Picture

PROC = Path("/proc/self/fd")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LETTERS = 4096
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL}
"""What opening a name may say of it; anything else is the server's own trouble."""


@dataclass(frozen=True)
class AllowedDirectory:
    """The directory; None: requests may name no files."""

    root: Path | None = None

    def picture(self, path: str, selection: PageSelection = FIRST_PAGE) -> Picture:
        """Open an image by its path; raises NotFoundError where there is no such file, and ImageError if it is none."""
        if self.root is None:
            raise NotFoundError("path: expected an image in the message: this server was started without --images")
        descriptor = self._opened(path)
        try:
            picture = open_file(PROC / str(descriptor), selection, name=path.rpartition("/")[2])
        except BaseException:
            os.close(descriptor)
            raise
        finalize(picture, os.close, descriptor)
        return picture

    def _opened(self, path: str) -> int:
        parts = path.split("/")
        if len(path) > LETTERS or not all(_is_name(part) for part in parts):
            raise NotFoundError(f"path: expected a path below the server's images, as a/b.png, got {path[:80]!r}")
        assert self.root is not None  # noqa: S101 (looked at by whoever calls)
        try:
            with ExitStack() as folders:
                folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                folders.callback(os.close, folder)
                for part in parts[:-1]:
                    folder = os.open(part, DIRECTORY, dir_fd=folder)
                    folders.callback(os.close, folder)
                descriptor = os.open(parts[-1], FILE, dir_fd=folder)
        except (OSError, UnicodeEncodeError) as error:
            if isinstance(error, OSError) and error.errno not in NOT_THERE:
                raise
            raise NotFoundError(f"path: no file {path[:80]!r} below the server's images") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotFoundError(f"path: no file {path[:80]!r} below the server's images")
        return descriptor


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and "\0" not in part and len(part.encode("utf-8", "surrogatepass")) <= 255
