"""Measures mode shared against crops for torchvision's architectures, and prints a table.

    pip install torch torchvision
    python benchmarks/shared.py [--side 1024] [--strides 32 16 8] [--only vgg16 resnet18] [--rounds 3] [--out table.md]

Every architecture gets random weights and is converted. Whole requests in mode shared are timed alternately with crops:
random windows of the image in batches of 8, 16 and 32, of which the fastest counts, and their time is scaled to all
windows. The table has the medians of the ratios, the ratio of the multiply-adds, the largest difference of a score from
the same windows in crops, relative to the largest score, and the mode that --mode exact takes.
"""

import argparse
import importlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from random_networks import random_network

from converter.convert import convert_checkpoint
from fullconv import Scorer
from service.engine.session import Session
from service.scoring.scorer import Scorer as Planner

NETWORKS = (
    "alexnet", "vgg11", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "googlenet", "inception_v3",
    "mobilenet_v2", "mnasnet1_0", "shufflenet_v2_x1_0", "regnet_x_400mf", "squeezenet1_1", "convnext_tiny",
)  # fmt: skip
WINDOWS = {"inception_v3": 299}
WINDOW, BATCHES = 224, (8, 16, 32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="height and width of the image (default: 1024)")
    parser.add_argument("--strides", type=int, nargs="+", default=[32], help="pixels between windows (default: 32)")
    parser.add_argument("--only", nargs="+", default=NETWORKS, help="names of architectures (default: fifteen)")
    parser.add_argument("--crops", type=int, default=32, help="windows that are timed as crops (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each line (default: 3)")
    parser.add_argument("--preload", help="module to import before torchvision, if torchvision needs it")
    parser.add_argument("--out", type=Path, help="file to which the table is also written")
    options = parser.parse_args()
    if options.preload:
        importlib.import_module(options.preload)
    rows = [
        "| network | stride | windows | multiply-adds of crops | time of crops | largest difference | mode exact |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    print("\n".join(rows), flush=True)
    for name in options.only:
        for row in measured(name, options):
            rows.append(row)
            print(row, flush=True)
    if options.out:
        options.out.write_text("\n".join(rows) + "\n", "utf-8")


def measured(name: str, options: argparse.Namespace) -> list[str]:
    """Return the lines of the table for one architecture."""
    window, rng = WINDOWS.get(name, WINDOW), np.random.default_rng(0)
    image = rng.integers(0, 256, (options.side, options.side, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "net", "1")
        convert_checkpoint(random_network(name), target, window=window, preprocess="imagenet", verify=4)
        return [line(name, Path(folder), image, window, stride, options) for stride in options.strides]


def line(name: str, models: Path, image: np.ndarray, window: int, stride: int, options: argparse.Namespace) -> str:
    """Return one line of the table."""
    count = (len(image) - window) // stride + 1
    model = Planner(models).model("net")
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


def time_of(session: Session, crops: list[np.ndarray], batch: int) -> float:
    """Return the seconds of one window in batches of a size."""
    used = crops[: len(crops) // batch * batch] or crops
    start = time.perf_counter()
    for at in range(0, len(used), batch):
        session.score(used[at : at + batch])
    return (time.perf_counter() - start) / len(used)


if __name__ == "__main__":
    main()
