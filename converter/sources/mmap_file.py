"""A file's bytes as a read-only, memory-mapped array.

Weights are views of this array. Therefore no memory is allocated for numbers that a file claims to hold and does not
hold, and the numbers in the file are not copied.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_EXPANSION = 4
"""Limit on the bytes of all tensors, relative to the file's size: several tensors may share bytes of a file, but each
tensor is written separately."""


def mmap_file(path: Path) -> NDArray[np.uint8]:
    """Return all bytes of a file; raises OSError, or ValueError for an empty file."""
    return np.asarray(np.memmap(path, np.uint8, "r"))
