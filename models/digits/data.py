"""Data of the example model: a seeded split of scikit-learn's digits, and the rendering of sheets with digits on them.

Training windows, held-out windows and the example page are all cut from sheets that this module draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

SPLIT_SEED = 20
HELD_OUT_SHARE = 0.2
WINDOW = 70
"""Side of a window in pixels."""
BACKGROUND = 10
"""Index of the class "background"."""
CENTRED = 6
"""Largest distance in pixels, along either axis, between the centre of a digit's window and that of the digit."""
OFF_CENTRE = 22
"""Distance in pixels, along at least one axis, that a background window's centre keeps from that of every digit."""
HEIGHTS = (36.0, 58.0)
"""Smallest and largest height of a digit in pixels."""
EDGE_ALPHA = 0.1
"""Opacity above which a pixel belongs to a digit's box."""
PRESSURE_SHARE = 0.35
"""Share of the opacity that depends on the pressure of the pen."""
INK_SPREAD = 0.6
"""Cells of the 8×8 image by which the strokes exceed the cells that carry ink."""
PLACING_TRIES = 100
"""Attempts to find a free position for a digit on a sheet."""


@dataclass(frozen=True)
class Digits:
    """Images (digits, 8, 8) of ink from 0 to 1, and the class of each."""

    images: Floats
    labels: Ints

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Style:
    """Appearance of a sheet: brightness from 0 (black) to 1 (white), textures as standard deviations of it."""

    paper: float
    ink: float
    mottle: float
    slope: float
    grain: float
    rule_gap: int
    rule_ink: float


@dataclass(frozen=True)
class Layout:
    """An empty sheet: (height, width) in pixels, its appearance, and the least distance of two digits' centres."""

    shape: tuple[int, int]
    style: Style
    gap: float


@dataclass(frozen=True)
class Placed:
    """A digit on a sheet: its class, and the smallest box around its ink in pixels."""

    label: int
    x: int
    y: int
    width: int
    height: int

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the box, x then y."""
        return self.x + self.width / 2, self.y + self.height / 2

    def overlaps(self, other: "Placed", gap: int) -> bool:
        """Return whether the two boxes are closer than `gap` pixels along both axes."""
        across = abs(self.centre[0] - other.centre[0]) < (self.width + other.width) / 2 + gap
        down = abs(self.centre[1] - other.centre[1]) < (self.height + other.height) / 2 + gap
        return across and down


@dataclass(frozen=True)
class Sheet:
    """A drawn sheet of 8-bit grey pixels, and the digits on it."""

    pixels: Bytes
    digits: list[Placed]

    def window(self, x: float, y: float) -> Bytes:
        """Return the window centred on a point, shifted to lie inside the sheet."""
        height, width = self.pixels.shape
        left = min(max(round(x - WINDOW / 2), 0), width - WINDOW)
        top = min(max(round(y - WINDOW / 2), 0), height - WINDOW)
        return self.pixels[top : top + WINDOW, left : left + WINDOW]

    def distance(self, x: float, y: float) -> float:
        """Return the distance of the nearest digit's centre: the larger of the distances along the two axes."""
        offsets = (max(abs(x - d.centre[0]), abs(y - d.centre[1])) for d in self.digits)
        return min(offsets, default=float("inf"))


def load_split() -> tuple[Digits, Digits]:
    """Return the training digits and the held-out digits, the same in every run."""
    bunch: Any = load_digits()
    images = np.asarray(bunch.images, dtype=np.float64) / 16
    labels = np.asarray(bunch.target, dtype=np.int64)
    rows = np.arange(len(labels))
    train, held_out = train_test_split(rows, test_size=HELD_OUT_SHARE, stratify=labels, random_state=SPLIT_SEED)
    return Digits(images[train], labels[train]), Digits(images[held_out], labels[held_out])


def random_style(rng: np.random.Generator) -> Style:
    """Return a random appearance, from that of clean scans to that of poor ones."""
    paper = rng.uniform(0.55, 0.98)
    return Style(
        paper=paper,
        ink=rng.uniform(0.02, paper - 0.3),
        mottle=rng.uniform(0.0, 0.05),
        slope=rng.uniform(0.0, 0.15),
        grain=rng.uniform(0.0, 0.03),
        rule_gap=int(rng.integers(24, 90)),
        rule_ink=max(0.0, rng.uniform(-0.08, 0.12)),
    )


def texture(rng: np.random.Generator, height: int, width: int, style: Style) -> Floats:
    """Return paper (height, width): a uniform tone with 1/f mottling, uneven light, ruled lines and grain."""
    down, across = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = style.slope * (np.cos(angle) * across + np.sin(angle) * down)
    grain = rng.normal(0, style.grain, (height, width))
    mottle = style.mottle * pink_noise(rng, height, width)
    paper: Floats = style.paper + light + mottle + grain - ruled_lines(rng, height, width, style)
    return paper


def pink_noise(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return noise whose amplitude is proportional to 1/f, with standard deviation 1."""
    down = np.fft.fftfreq(height)[:, None]
    across = np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / frequency
    noise = np.fft.irfft2(spectrum, s=(height, width))
    scaled: Floats = noise / noise.std()
    return scaled


def ruled_lines(rng: np.random.Generator, height: int, width: int, style: Style) -> Floats:
    """Return the darkness of faint, evenly spaced, slightly inclined lines: mostly horizontal, sometimes vertical."""
    down, across = np.mgrid[0:height, 0:width].astype(np.float64)
    if rng.random() < 0.2:
        down, across = across, down
    position = down + across * rng.uniform(-0.01, 0.01) + rng.uniform(0, style.rule_gap)
    offset = np.abs((position + style.rule_gap / 2) % style.rule_gap - style.rule_gap / 2)
    lines: Floats = style.rule_ink * np.clip(1.5 - offset, 0, 1)
    return lines


def glyph(rng: np.random.Generator, image: Floats, height: float) -> Floats:
    """Return a digit enlarged to smooth pen strokes, as opacity from 0 to 1, cropped to its ink."""
    rows = np.flatnonzero(image.max(axis=1) > 0.25)
    columns = np.flatnonzero(image.max(axis=0) > 0.25)
    cell = height / (rows[-1] - rows[0] + 1 + INK_SPREAD)
    middle = np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2
    inverse = np.linalg.inv(random_affine(rng, cell))
    side = int(1.6 * height)
    pad = 3
    shift = middle + pad - inverse @ np.full(2, (side - 1) / 2)
    smooth = ndimage.affine_transform(np.pad(image, pad), inverse, shift, (side, side), order=3)
    opacity = ink_edges(rng, np.asarray(smooth, dtype=np.float64))
    return crop(opacity)


def random_affine(rng: np.random.Generator, cell: float) -> Floats:
    """Return the matrix from cells to pixels, both as (down, across): scaling, slight shear, slight rotation."""
    angle = np.deg2rad(rng.uniform(-9, 9))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1.0, 0.0], [rng.uniform(-0.15, 0.15), 1.0]])
    matrix: Floats = rotation @ slant @ np.diag([cell, cell * rng.uniform(0.85, 1.1)])
    return matrix


def ink_edges(rng: np.random.Generator, smooth: Floats) -> Floats:
    """Return blurred strokes sharpened to ink, with random pen width and softness, darker under pressure of the pen."""
    level = rng.uniform(0.33, 0.45)
    softness = rng.uniform(0.15, 0.3)
    pressure = 1 - PRESSURE_SHARE * (1 - np.clip(smooth, 0, 1))
    ramp = np.clip((smooth - level) / (2 * softness) + 0.5, 0, 1)
    edges: Floats = pressure * ramp * ramp * (3 - 2 * ramp)
    return edges


def crop(opacity: Floats) -> Floats:
    """Return the smallest part that contains all ink."""
    rows = np.flatnonzero(opacity.max(axis=1) > EDGE_ALPHA)
    columns = np.flatnonzero(opacity.max(axis=0) > EDGE_ALPHA)
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def place(rng: np.random.Generator, label: int, ink: Floats, others: Sequence[Placed], layout: Layout) -> Placed | None:
    """Return a free position whose window lies inside the sheet, or None if PLACING_TRIES attempts fail."""
    margin = WINDOW / 2 + CENTRED
    height, width = ink.shape
    for _ in range(PLACING_TRIES):
        x = round(rng.uniform(margin, layout.shape[1] - margin) - width / 2)
        y = round(rng.uniform(margin, layout.shape[0] - margin) - height / 2)
        spot = Placed(label, x, y, width, height)
        if all(far_apart(spot, other, layout.gap) for other in others):
            return spot
    return None


def far_apart(one: Placed, other: Placed, gap: float) -> bool:
    """Return whether two digits do not touch and their centres are at least `gap` pixels apart."""
    across, down = (a - b for a, b in zip(one.centre, other.centre, strict=True))
    return bool(np.hypot(across, down) >= gap) and not one.overlaps(other, 3)


def draw_sheet(rng: np.random.Generator, digits: Digits, rows: Ints, layout: Layout) -> Sheet:
    """Return a sheet with the digits of `rows` at random positions. Digits without a free position are left out."""
    paper = texture(rng, *layout.shape, layout.style)
    placed: list[Placed] = []
    for row in rows:
        ink = glyph(rng, digits.images[row], rng.uniform(*HEIGHTS))
        spot = place(rng, int(digits.labels[row]), ink, placed, layout)
        if spot is not None:
            write(rng, paper, ink, spot, layout.style)
            placed.append(spot)
    pixels = np.rint(np.clip(paper, 0, 1) * 255).astype(np.uint8)
    return Sheet(pixels, placed)


def write(rng: np.random.Generator, paper: Floats, ink: Floats, spot: Placed, style: Style) -> None:
    """Draw the ink of one digit on the paper, through which some of the paper's texture remains visible."""
    area = paper[spot.y : spot.y + spot.height, spot.x : spot.x + spot.width]
    tone = style.ink + rng.uniform(-0.04, 0.04) + 0.5 * (area - style.paper)
    area += ink * (tone - area)
