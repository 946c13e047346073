"""The arrays that go into a network, and that come out of it."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""Pixels (rows, cols, channels) in the element type that a model takes."""
Scores = NDArray[np.float32]
"""Scores (rows, cols, classes) of the cells of one tile."""
