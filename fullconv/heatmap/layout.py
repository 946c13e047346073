"""The layout of a heatmap: the drawn image, and the panel with the colour bar and the legend.

Text and lines grow with the drawn image, so that they are legible when the whole picture is shown: the longer side of
the drawn image is always 12 units, and the size of the text is a number of units. The panel lies beside the image, or
below an image that is much wider than high. Strips get a margin for the labels, which are higher than the strip itself.
"""

from dataclasses import dataclass

LONGEST, SHORTEST = 4096, 1200
"""Largest length of the picture's longer side in pixels, and smallest length of the drawn image's longer side, if that
fits."""
LEGIBLE = 600
"""Length of an image's longer side in pixels below which letters and lines are not drawn smaller."""
UNITS = 12.0
"""Length of the drawn image's longer side in units."""
PANEL_WIDTH, PANEL_HEIGHT = 3.1, 2.3
LINE, STRIP_LINE = 0.025, 0.05
"""Width of an outline in units, and its largest width in a strip as a share of the strip's shorter side."""
WIDE = 2.2
"""Ratio of width to height above which the panel lies below the image."""
STRIP, MARGIN, COLUMN = 1.2, 0.35, 2.7
"""In units: the shorter side below which an image is a strip; the margin above and below it; the margin on the right
for labels."""


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture: pixels [left, right) and [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> int:
        """Area in square pixels."""
        return self.width * self.height

    def holds(self, other: "Box") -> bool:
        """Return whether the other box lies in this box."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom

    def overlaps(self, other: "Box") -> bool:
        """Return whether the boxes have a pixel in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def moved(self, right: int, down: int) -> "Box":
        """Return the same box, moved by pixels."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)


@dataclass(frozen=True)
class Layout:
    """The positions of the parts of a heatmap, in pixels of the picture."""

    image: Box
    panel: Box
    labels: Box
    """The area in which labels may lie: the image and its margins."""
    unit: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.panel.right, self.panel.bottom

    @property
    def line(self) -> float:
        """Width of an outline in pixels."""
        return min(LINE * self.unit, STRIP_LINE * min(self.image.width, self.image.height))

    @property
    def below(self) -> bool:
        """Whether the panel lies below the image."""
        return self.panel.left == 0


def layout_of(width: int, height: int, *, labels: bool = True, legend: bool = True) -> Layout:
    """Lay out a heatmap of an image of (width, height) pixels, with or without labels beside its regions.

    Without a legend there is no panel, and the picture has the size of the image if that is not too large.
    """
    if not legend:
        return _layout_of_image(width, height)
    longer = max(width, height)
    across, down = UNITS * width / longer, UNITS * height / longer
    below = width > WIDE * height
    strip = labels and min(across, down) < STRIP
    total = across + PANEL_WIDTH + COLUMN * strip
    unit = min(max(longer, SHORTEST), int(LONGEST * UNITS / max(UNITS, 0 if below else total))) / UNITS
    drawn_width, drawn_height = max(1, round(across * unit)), max(1, round(down * unit))
    margin = round((MARGIN if below else COLUMN) * unit) if strip else 0
    if below:
        image = Box(0, margin, drawn_width, margin + drawn_height)
        room = Box(0, 0, drawn_width, image.bottom + margin)
        panel = Box(0, room.bottom, drawn_width, min(LONGEST, room.bottom + round(PANEL_HEIGHT * unit)))
    else:
        image = Box(0, 0, drawn_width, drawn_height)
        room = Box(0, 0, drawn_width + margin, drawn_height)
        panel = Box(room.right, 0, min(LONGEST, room.right + round(PANEL_WIDTH * unit)), drawn_height)
    return Layout(image, panel, room, unit)


def _layout_of_image(width: int, height: int) -> Layout:
    """Lay out a heatmap without a panel."""
    longer = max(width, height)
    drawn = min(1, LONGEST / longer)
    image = Box(0, 0, max(1, round(width * drawn)), max(1, round(height * drawn)))
    return Layout(image, Box(image.width, 0, image.width, image.height), image, max(longer * drawn, LEGIBLE) / UNITS)
