"""Types of the arrays that a network takes and returns."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""Pixels (rows, cols, channels) of a tile or strip, in the element type that the model takes."""
Scores = NDArray[np.float32]
"""Scores (rows, cols, classes) of a tile's cells."""
