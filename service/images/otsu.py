"""Otsu's threshold, which divides the tones of an image into two groups.

For every tone t of a histogram, the pixels up to t are one group and the others the second group. With w the number of
pixels of a group and m their mean tone, the threshold is the first t with the largest variance between the groups,

    w₁(t) · w₂(t) · (m₁(t) − m₂(t))².

Source: N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Transactions on Systems, Man, and
Cybernetics 9 (1), 1979, pages 62 to 66. The histogram and the arithmetic are those of `threshold_otsu` in scikit-image
0.26 for pixels of floating point, so that both give the same threshold.
"""

import numpy as np
from numpy.typing import NDArray

TONES = 256
"""Number of tones of the histogram, which divide the range of the image's values equally."""


def otsu_threshold(grey: NDArray[np.float32]) -> float:
    """Return the threshold of an image (rows, cols) of finite tones; tones above it are the lighter group.

    For an image of a single tone, this is the threshold.
    """
    if grey.min() == grey.max():
        return float(grey.flat[0])
    pixels, edges = np.histogram(grey, TONES)
    counts, tones = pixels.astype(np.float32), (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    sums, sums_above = np.cumsum(counts * tones), np.cumsum((counts * tones)[::-1])[::-1]
    distances = (sums / below)[:-1] - (sums_above / above)[1:]
    return float(tones[np.argmax(below[:-1] * above[1:] * distances**2)])
