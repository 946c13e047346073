"""Draws the example page: held-out digits at random positions on a sheet, and a list of their boxes."""

import json
from pathlib import Path

import numpy as np
import pyvips
from data import Digits, Ints, Layout, Sheet, Style, draw_sheet, load_split

HERE = Path(__file__).parent
SEED = 7
SHAPE = (768, 1024)
COUNT = 54
CENTRE_GAP = 82.0
STYLE = Style(paper=0.89, ink=0.2, mottle=0.012, slope=0.07, grain=0.007, rule_gap=48, rule_ink=0.045)


def choose(rng: np.random.Generator, digits: Digits) -> Ints:
    """Return the rows of the digits for the page, all classes equally often (to within one), in random order."""
    shuffled = rng.permutation(len(digits))
    rank = np.empty(len(digits), dtype=np.int64)
    for label in range(10):
        rows = shuffled[digits.labels[shuffled] == label]
        rank[rows] = np.arange(len(rows))
    chosen = shuffled[np.argsort(rank[shuffled], kind="stable")][:COUNT]
    return rng.permutation(chosen)


def describe(page: Sheet) -> str:
    """Return the list of the page's digits as JSON, one digit per line."""
    height, width = page.pixels.shape
    lines = [json.dumps({"label": str(d.label), "box": [d.x, d.y, d.width, d.height]}) for d in page.digits]
    head = f'{{\n  "image": "page.png",\n  "width": {width},\n  "height": {height},\n  "digits": [\n    '
    return head + ",\n    ".join(lines) + "\n  ]\n}\n"


def main() -> None:
    """Write page.png and page.json into the directory of this program."""
    rng = np.random.default_rng(SEED)
    _, held_out = load_split()
    page = draw_sheet(rng, held_out, choose(rng, held_out), Layout(SHAPE, STYLE, CENTRE_GAP))
    image = pyvips.Image.new_from_memory(page.pixels.tobytes(), SHAPE[1], SHAPE[0], 1, "uchar")
    image.copy(interpretation="b-w").pngsave(str(HERE / "page.png"), compression=9, strip=True)
    (HERE / "page.json").write_text(describe(page), encoding="utf-8")
    print(f"page.png: {len(page.digits)} held-out digits")


if __name__ == "__main__":
    main()
