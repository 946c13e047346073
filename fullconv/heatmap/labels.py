"""Places labels beside the regions that they name, so that no label covers another label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.heatmap.layout import Box

MAX_LABELS = 400
"""Largest number of labels in a picture: if there are more regions, only the largest regions have labels. The legend
names all colours."""
HIDDEN = 2.0
"""Largest ratio of a label's area to its region's area for a label inside the image."""


@dataclass(frozen=True)
class LabelledRegion:
    """A region, and the size of its label's text, in pixels of the picture."""

    box: Box
    width: int
    height: int
    gap: int
    """Pixels between the region and the text, and between texts."""

    def places(self, image: Box, within: Box) -> Iterator[Box]:
        """Yield places for the text, the best first: above, below, right, left, inside; moved along the edge to fit.

        A text that is much larger than its region is placed beside the image or not at all.
        """
        box = self.box
        hides = self.width * self.height > HIDDEN * box.area
        edge = image if hides else box
        across = _moved((box.left + box.right - self.width) // 2, self.width, within.left, within.right)
        down = _moved((box.top + box.bottom - self.height) // 2, self.height, within.top, within.bottom)
        corners = [
            (across, edge.top - self.gap - self.height),
            (across, edge.bottom + self.gap),
            (edge.right + self.gap, down),
            (edge.left - self.gap - self.width, down),
        ]
        if not hides and self.width < box.width and self.height < box.height:
            corners.append((across, down))
        for left, top in corners:
            place = Box(left, top, left + self.width, top + self.height)
            if within.holds(place):
                yield place


def place_labels(regions: Sequence[LabelledRegion], image: Box, within: Box) -> dict[int, Box]:
    """Return the place of each region's label, by the region's position; regions without room for a label are missing.

    Large regions get their places first.
    """
    taken = np.empty((0, 4), np.int64)
    found: dict[int, Box] = {}
    for position in sorted(range(len(regions)), key=lambda position: -regions[position].box.area)[:MAX_LABELS]:
        region = regions[position]
        box = next((box for box in region.places(image, within) if _free(box, taken, region.gap)), None)
        if box is not None:
            taken = np.vstack([taken, [box.left, box.top, box.right, box.bottom]])
            found[position] = box
    return found


def _moved(start: int, length: int, low: int, high: int) -> int:
    """Return the start, moved so that the whole length lies in [low, high) if it fits."""
    return max(min(start, high - length), low)


def _free(box: Box, taken: NDArray[np.int64], gap: int) -> bool:
    """Return whether the box, with a gap around it, overlaps no other box; `taken` is (boxes, 4)."""
    left, top, right, bottom = taken.T
    across = (left < box.right + gap) & (box.left < right + gap)
    return not bool((across & (top < box.bottom + gap) & (box.top < bottom + gap)).any())
