"""Opens the files of a version, ROOT/NAME/VERSION/FILE, so that no file can block, lead elsewhere, or fill the memory.

Only regular files are opened. Symbolic links are followed if they stay in the repository or in the version's folder,
because volumes of Kubernetes consist of links. A folder of the repository may itself be a link to another place.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from service.errors import ModelError, UnreadableModelError

WAY_OUT = "copy the version into this directory again, or convert the model again"
"""What to do about damaged files."""
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def model_path(path: Path) -> str:
    """Return the last three parts of a path, for messages: "digits/1/model.onnx"."""
    return "/".join(path.parts[-3:])


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file of a version for reading.

    Raises ModelError if it is missing, not a regular file, or outside of the repository, and UnreadableModelError if it
    cannot be opened or read now, also for errors of the block.
    """
    try:
        _check_place(path)
        with open(path, "rb", opener=_open_regular) as file:
            yield file
    except FileNotFoundError:
        raise ModelError(f"{model_path(path)}: expected a file, got none; {WAY_OUT}") from None
    except OSError as error:
        raise UnreadableModelError(f"{model_path(path)}: cannot be read: {error.strerror}") from None


def read_file(path: Path, limit: int) -> bytes:
    """Return the contents of a file of a version; raises ModelError, also if it has more than `limit` bytes."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ModelError(f"{model_path(path)}: expected at most {limit} bytes, got {size}; {WAY_OUT}")
        return file.read(size)


def is_plain_name(name: str) -> bool:
    """Return whether a name can only be that of a file directly in a folder."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _check_place(path: Path) -> None:
    """Raise ModelError for a file whose real place is in neither the version's folder nor the repository."""
    version, root = path.parent, path.parent.parent.parent
    real = Path(os.path.realpath(path, strict=True))
    if not any(real.is_relative_to(folder.resolve()) for folder in (version, root)):
        raise ModelError(
            f"{model_path(path)}: expected a file in the repository, got a symbolic link to another place; copy the "
            "file into the version's folder"
        )
    _check_kind(path, path.stat().st_mode)  # before it is opened: opening a device may act on it


def _check_kind(path: Path, mode: int) -> None:
    """Raise ModelError for the mode of anything but a regular file."""
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "another kind of file")
        raise ModelError(f"{model_path(path)}: expected a regular file, got {kind}; {WAY_OUT}")


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; raises ModelError. A named pipe that has just taken its place does not block."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_kind(Path(path), os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
