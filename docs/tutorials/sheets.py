"""The data of the tutorials: sheets of scikit-learn's handwritten digits, and windows that are cut from sheets.

A sheet shows digits of 48 pixels in black ink on white paper, at random positions in squares of 96 pixels. A window has
64 pixels. Its class is the digit at its centre, or "background" if every digit is far from the centre.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fullconv import Answer

LABELS = [*"0123456789", "background"]
SIDE, PITCH, WINDOW = 48, 96, 64
"""Sides in pixels: of a digit, of its square on the sheet, and of a window."""
EDGE = (WINDOW - SIDE) // 2
"""Smallest distance of a digit from the edges of its square, in pixels: its window lies inside of the sheet."""
CENTRED, OFF_CENTRE = 8, 16
"""Distance in pixels, along either axis, from the centre of a digit: at most CENTRED in windows of the digit, and more
than OFF_CENTRE along at least one axis in windows of the background."""

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


class Sheet(NamedTuple):
    """Grey pixels (height, width); centres (digits, 2) of the digits, y before x; and their classes (digits,)."""

    pixels: Bytes
    centres: Ints
    classes: Ints


class Windows(NamedTuple):
    """Grey pixels (windows, 64, 64), and the class of each window."""

    pixels: Bytes
    classes: Ints


def training_windows() -> Windows:
    """Return windows of 1,437 digits and of the background, in random order."""
    return cut(draw(split()[0], columns=38))


def held_out_windows() -> Windows:
    """Return windows of the other 360 digits and of the background."""
    return cut(draw(split()[1], columns=20))


def held_out_sheet() -> Sheet:
    """Return a sheet of 8×6 held-out digits: 768×576 pixels."""
    return draw(split()[1][:48], columns=8)


def count_found(sheet: Sheet, answer: Answer) -> int:
    """Return for how many digits the window with the nearest centre has its highest score for the digit's class."""
    if answer.grid is None:
        raise ValueError("answer: expected a grid, got None; score with grid=True")
    winners = answer.grid.argmax(axis=-1)
    rows, cols = (
        abs(starts + WINDOW // 2 - centres[:, None]).argmin(axis=1)
        for starts, centres in zip((answer.y, answer.x), sheet.centres.T, strict=True)
    )
    return int((winners[rows, cols] == sheet.classes).sum())


def split() -> tuple[Ints, Ints]:
    """Return the indices of the training digits and of the held-out digits in `load_digits()`."""
    classes = load_digits().target
    training, held_out = train_test_split(np.arange(len(classes)), test_size=360, stratify=classes, random_state=0)
    return training, held_out


def draw(indices: Ints, columns: int) -> Sheet:
    """Draw digits row by row."""
    random, digits = np.random.default_rng(0), load_digits()
    pixels = np.full((-(-len(indices) // columns) * PITCH, columns * PITCH), 255, np.uint8)
    squares = PITCH * np.stack(divmod(np.arange(len(indices)), columns), axis=1)
    corners = squares + random.integers(EDGE, PITCH - SIDE - EDGE + 1, squares.shape)
    for (y, x), image in zip(corners, digits.images[indices], strict=True):
        small = Image.fromarray((255 * (1 - image / 16)).astype(np.uint8))
        pixels[y : y + SIDE, x : x + SIDE] = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return Sheet(pixels, corners + SIDE // 2, digits.target[indices])


def cut(sheet: Sheet) -> Windows:
    """Cut one window for each digit, and fewer windows of the background."""
    random, margin = np.random.default_rng(1), WINDOW // 2
    limits = np.array(sheet.pixels.shape) - margin + 1
    near = np.clip(sheet.centres + random.integers(-CENTRED, CENTRED + 1, sheet.centres.shape), margin, limits - 1)
    anywhere = random.integers(margin, limits, (len(sheet.centres) * 2 // 3, 2))
    far = anywhere[[abs(sheet.centres - point).max(axis=1).min() > OFF_CENTRE for point in anywhere]]
    classes = np.concatenate([sheet.classes, np.full(len(far), LABELS.index("background"))])
    pixels = [sheet.pixels[y - margin : y + margin, x - margin : x + margin] for y, x in np.concatenate([near, far])]
    order = random.permutation(len(classes))
    return Windows(np.stack(pixels)[order], classes[order])
