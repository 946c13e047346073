"""Images that a file's Orientation rotates or mirrors, by EXIF or in TIFF."""

import numpy as np

from service.images.decoding import STEP_PIXELS, Pause
from service.images.picture import SampleReader
from service.images.pixels import SampleArray

TURN_SECONDS = 8e-9
"""Seconds of one CPU for each pixel that is turned."""


class OrientedRows:
    """Reads the rows of an image that its Orientation rotates or mirrors; a `SampleReader`.

    The image is read as a whole at the first call.
    """

    block_rows = 1

    def __init__(self, rows: SampleReader, height: int, orientation: int, pause: Pause) -> None:
        self._rows, self._height, self._orientation, self._pause = rows, height, orientation, pause
        self._image: SampleArray | None = None

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) of the upright image."""
        if self._image is None:
            self._image = apply_orientation(self._whole(), self._orientation)
        return self._image[first:stop]

    def _whole(self) -> SampleArray:
        """Read all rows of the stored image."""
        first = self._rows.read(0, 1)
        image = np.empty((self._height, *first.shape[1:]), first.dtype)
        image[:1] = first
        step = max(self._rows.block_rows, STEP_PIXELS // image.shape[1])
        for start in range(1, self._height, step):
            self._pause()
            stop = min(start + step, self._height)
            image[start:stop] = self._rows.read(start, stop)
        return image


def apply_orientation(image: SampleArray, orientation: int) -> SampleArray:
    """Return an image (rows, cols, bands) rotated and mirrored to be upright, by the tag Orientation, 1 to 8."""
    if orientation > 4:
        image = image.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return image[:: -1 if down else 1, :: -1 if across else 1]
