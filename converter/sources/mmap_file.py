"""A file's bytes as a read-only, memory-mapped array.

Weights are views of it. So no memory is taken for numbers that a file claims to hold and does not, and the numbers that
it holds are not copied.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_EXPANSION = 4
"""Limit on the bytes of all tensors, relative to the file's size: several tensors may share bytes of a file, but each
is written by itself."""


def mmap_file(path: Path) -> NDArray[np.uint8]:
    """Returns all bytes of a file; raises OSError, or ValueError for an empty file."""
    return np.asarray(np.memmap(path, np.uint8, "r"))
