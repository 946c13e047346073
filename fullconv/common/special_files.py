"""Files that are neither regular files nor folders: pipes, sockets and devices."""

import os
import stat
from typing import BinaryIO

MAX_PIPE_BYTES = 2 << 30
"""Bytes of the largest image that is read from a pipe, which is in memory as a whole."""
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class TooLargeError(ValueError):
    """A pipe has more than MAX_PIPE_BYTES."""


def special_kind(mode: int) -> str:
    """Return what a file of this mode is; empty for regular files and folders."""
    return KINDS.get(stat.S_IFMT(mode), "")


def read_whole(file: BinaryIO) -> bytes:
    """Return what a file or a pipe holds.

    Raises ValueError for a device, which may have no end, and TooLargeError for a pipe of more than MAX_PIPE_BYTES.
    """
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file.read()
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        raise ValueError(f"expected a file or a pipe, got {special_kind(mode)}")
    data = file.read(MAX_PIPE_BYTES + 1)
    if len(data) > MAX_PIPE_BYTES:
        raise TooLargeError(
            f"expected at most {MAX_PIPE_BYTES >> 20} MiB from a pipe, got more: write the image to a file"
        )
    return data
