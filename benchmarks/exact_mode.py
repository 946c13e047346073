"""Measures mode exact against crops for torchvision's architectures, and prints a table.

    pip install torch torchvision
    python benchmarks/exact_mode.py [--sides 480 1024] [--only vgg16 resnet18] [--rounds 5] [--out table.md]

Every architecture gets random weights and is converted. At its native stride, whole requests in mode shared, if the
network has it, are timed alternately with batches of random windows, as mode crops submits them; the time of a window
is scaled to all windows. `exact` is the mode that --mode exact takes, and `predicted` the cost of crops divided by that
of mode shared from which it follows. The ratios are the time of crops divided by that of mode exact, and by that of
mode shared; if mode exact takes crops, the first is 1. The last column says by how much the other mode is faster, if
this is more than 2 %.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from architectures import converted, make_parser, print_table, time_of

from fullconv import Scorer
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.limits import Limits, Tuning
from service.scoring.modes import WINDOWS_PER_SUBMISSION
from service.scoring.options import ModeChoice, RequestedOptions, resolve
from service.scoring.plan import Bounds, ImageSizes, Plan, make_plan
from service.scoring.scorer import Scorer as Planner

TOLERATED = 1.02
HEADER = """\
| network | image | windows | exact | predicted | crops ÷ exact | crops ÷ shared | slower than the other mode |
|---|--:|--:|---|--:|--:|--:|---|"""


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[480, 1024], help="pixels (default: 480 1024)")
    print_table(HEADER, measured, parser.parse_args())


def measured(name: str, options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table for one architecture."""
    with converted(name) as models, Scorer(models) as scorer:
        for side in options.sides:
            yield line(name, scorer, models, side, options)


def line(name: str, scorer: Scorer, models: Path, side: int, options: argparse.Namespace) -> str:
    """Return the line of the table for a square image."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (side, side, 3), np.uint8)
    model = Planner(models).model("net")
    exact = planned(model, side, ModeChoice.EXACT).mode.name
    if "shared" not in model.spec.modes:
        return f"| {name} | {side}² | | {exact} | | 1 | no such file | |"
    down, across = model.strides[0]
    height, width = model.spec.window.height, model.spec.window.width
    rows, cols = (side - height) // down + 1, (side - width) // across + 1
    places = rng.integers((rows, cols), size=(options.crops, 2)) * (down, across)
    windows = [image[top : top + height, left : left + width] for top, left in places]
    session, ratios = Session(model), list[float]()
    scorer.score(image, model="net", mode="shared")
    time_of(session, windows[:WINDOWS_PER_SUBMISSION], WINDOWS_PER_SUBMISSION)
    for _ in range(options.rounds):
        start = time.perf_counter()
        scorer.score(image, model="net", mode="shared")
        shared = time.perf_counter() - start
        ratios.append(time_of(session, windows, WINDOWS_PER_SUBMISSION) * rows * cols / shared)
    ratio = statistics.median(ratios)
    efforts = [planned(model, side, mode).effort for mode in (ModeChoice.CROPS, ModeChoice.SHARED)]
    found = 1 if exact == "crops" else ratio
    best = max(1, ratio)
    note = f"{100 * (best / found - 1):.0f} %" if best > TOLERATED * found else ""
    return (
        f"| {name} | {side}² | {rows * cols} | {exact} | {efforts[0] / efforts[1]:.2f} | {found:.2f} | "
        f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {note} |"
    )


def planned(model: StoredModel, side: int, mode: ModeChoice) -> Plan:
    """Return the plan of a square image at the native stride."""
    sizes, bounds = ImageSizes((side, side), (side, side)), Bounds(1 << 40, Limits().plan_bytes, Tuning())
    return make_plan(model, resolve(model, RequestedOptions(mode=mode)), sizes, bounds)


if __name__ == "__main__":
    main()
