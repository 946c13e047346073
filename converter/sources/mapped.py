"""A file's bytes as a read-only array, brought in page by page as they are looked at.

Weights are views of it, so that nothing is taken for what a file merely claims, and no second copy of what it holds.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARING = 4
"""Tensors may lie in the same bytes, but are written each for itself: so many times the files' size at most."""


def mapped(path: Path) -> NDArray[np.uint8]:
    """All bytes of a file; raises OSError or, for an empty one, ValueError."""
    return np.asarray(np.memmap(path, np.uint8, "r"))
