"""Counts the page's digits that a grid finds: `python models/digits/count_found.py page.npz`.

A digit is found if, in the cell whose window's centre is nearest to its box's centre, its class has the highest score.
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE = Path(__file__).with_name("page.json")


def count_found(grid: Path, page: Path = PAGE) -> tuple[int, int]:
    """Digits found and digits there are; `grid` is an .npz as `fullconv-score --grid` writes it."""
    digits = json.loads(page.read_text("utf-8"))["digits"]
    with np.load(grid) as cells:
        height, width = cells["window"]
        winners = cells["labels"][cells["scores"].argmax(axis=-1)]
        found = 0
        for digit in digits:
            x, y, box_width, box_height = digit["box"]
            row = nearest(cells["y"] + height / 2, y + box_height / 2)
            col = nearest(cells["x"] + width / 2, x + box_width / 2)
            found += bool(winners[row, col] == digit["label"])
    return found, len(digits)


def nearest(centres: NDArray[np.float64], wanted: float) -> int:
    """Position of the value nearest to the wanted one."""
    return int(np.abs(centres - wanted).argmin())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python models/digits/count_found.py GRID.npz")
    right, total = count_found(Path(sys.argv[1]))
    print(f"found {right} of the page's {total} digits ({right / total:.1%})")
