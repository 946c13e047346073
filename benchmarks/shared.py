"""Measures mode shared against crops for torchvision's architectures, and prints a table.

    pip install torch torchvision
    python benchmarks/shared.py [--side 1024] [--strides 32 16 8] [--only vgg16 resnet18] [--rounds 3] [--out table.md]

Every architecture gets random weights and is converted. Whole requests in mode shared are timed alternately with crops:
random windows of the image in batches of 8, 16 and 32, of which the fastest counts, and their time is scaled to all
windows. The table has the medians of the ratios, the ratio of the multiply-adds, the largest difference of a score from
the same windows in crops, relative to the largest score, and the mode that --mode exact takes.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from architectures import converted, make_parser, print_table, time_of

from fullconv import Scorer
from service.engine.session import Session
from service.scoring.scorer import Scorer as Planner

BATCHES = (8, 16, 32)
HEADER = """\
| network | stride | windows | multiply-adds of crops | time of crops | largest difference | mode exact |
|---|--:|--:|--:|--:|--:|---|"""


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--side", type=int, default=1024, help="height and width of the image (default: 1024)")
    parser.add_argument("--strides", type=int, nargs="+", default=[32], help="pixels between windows (default: 32)")
    print_table(HEADER, measured, parser.parse_args())


def measured(name: str, options: argparse.Namespace) -> list[str]:
    """Return the lines of the table for one architecture."""
    image = np.random.default_rng(0).integers(0, 256, (options.side, options.side, 3), np.uint8)
    with converted(name) as models:
        return [line(name, models, image, stride, options) for stride in options.strides]


def line(name: str, models: Path, image: np.ndarray, stride: int, options: argparse.Namespace) -> str:
    """Return one line of the table."""
    model = Planner(models).model("net")
    window = model.spec.window.height
    count = (len(image) - window) // stride + 1
    session = Session(model)
    rng, sample = np.random.default_rng(1), options.crops
    cells = [divmod(int(cell), count) for cell in rng.choice(count**2, min(sample, count**2), replace=False)]
    crops = [image[r * stride : r * stride + window, c * stride : c * stride + window] for r, c in cells]
    with Scorer(models) as scorer:
        exact = scorer.plan(image, model="net", mode="exact", stride=stride)
        if "shared" not in model.spec.modes or exact.mode == "crops":
            return f"| {name} | {stride} | {count**2} | | | | {exact.mode} |"
        answer = scorer.score(image, model="net", mode="shared", stride=stride, grid=True)
        expected = np.concatenate([session.score(crops[at : at + 8]) for at in range(0, len(crops), 8)])[:, 0, 0]
        got = np.asarray(answer.grid)[tuple(np.transpose(cells))]
        ratios = []
        for _ in range(options.rounds):
            start = time.perf_counter()
            scorer.score(image, model="net", mode="shared", stride=stride, grid=True)
            shared = time.perf_counter() - start
            ratios.append(min(time_of(session, crops, batch) for batch in BATCHES) * count**2 / shared)
        counted = model.spec.cost[0].multiply_adds_per_crop * count**2 / exact.plan.multiply_adds
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {name} | {stride} | {count**2} | {counted:.2f} | {ratio} | {difference:.1e} | {exact.mode} |"


if __name__ == "__main__":
    main()
