"""Counts the digits of the page that a grid finds: `python models/digits/count_found.py page.npz`.

For each digit, the cell whose window's centre is nearest to the centre of the digit's box counts. The digit is found if
its class has the highest score in this cell.
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE = Path(__file__).with_name("page.json")


def count_found(grid: Path, page: Path = PAGE) -> tuple[int, int]:
    """Return the number of digits found and of all digits; `grid` is an .npz file of `fullconv-score --grid`."""
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
    """Return the position of the value that is nearest to the wanted value."""
    return int(np.abs(centres - wanted).argmin())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python models/digits/count_found.py GRID.npz")
    right, total = count_found(Path(sys.argv[1]))
    print(f"found {right} of the page's {total} digits ({right / total:.1%})")
