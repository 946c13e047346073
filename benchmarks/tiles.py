"""Checks the cost of tiles: whether a large image takes the time that its plan predicts, and which tile size is best.

python benchmarks/tiles.py [--model vgg16 | digits] [--size 4096] [--whole 1024]

VGG-16 has random weights. All measurements are in one process. First, one tile of the planned size is run, which
gives a rate in multiply-adds per second. A large image is planned and scored; the result is the ratio of its time
to that of the plan's multiply-adds at this rate. A smaller image is scored in many tiles and in few, and both grids
are compared. Last, tiles of several sizes are run; the table has the time for each cell that remains without the
halo.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from random_networks import convert

from service.engine.repository import StoredModel
from service.engine.session import Session
from service.images.arrays import ArrayInMemory, open_array
from service.limits import Limits, Tuning
from service.scoring.execution import Execution
from service.scoring.options import ModeChoice, RequestedOptions, ResolvedOptions, resolve
from service.scoring.plan import Bounds, ImageSizes, Plan, make_plan
from service.scoring.planned import PlannedImage
from service.scoring.scorer import Scorer

MODELS = Path(__file__).parents[1] / "models"
SMALL_TILES = Tuning(tile_bytes=1)
RUNS = 3


def planned(model: StoredModel, side: int, tuning: Tuning, *, grid: bool = False) -> tuple[ResolvedOptions, Plan]:
    """Return the options and the plan of a square image at the native stride."""
    options = resolve(model, RequestedOptions(mode=ModeChoice.DENSE, grid=grid))
    return options, make_plan(
        model, options, ImageSizes((side, side), (side, side)), Bounds(1 << 40, Limits().plan_bytes, tuning)
    )


def native_session(scorer: Scorer, model: StoredModel) -> Session:
    """Return the session for the native stride."""
    served, _ = scorer.registry.get(model.name, model.version)
    return scorer.registry.session(served, model, 0)


def score(
    scorer: Scorer, model: StoredModel, side: int, tuning: Tuning, *, grid: bool
) -> tuple[float, Plan, NDArray[np.float32]]:
    """Score an image; returns seconds, plan and grid."""
    options, plan = planned(model, side, tuning, grid=grid)
    channels = model.spec.input.channels
    image = np.random.default_rng(1).integers(0, 256, (side, side, channels), np.uint8)
    picture = open_array("noise", image.shape, "uint8", lambda: ArrayInMemory(image))
    execution = Execution(PlannedImage(picture, model, native_session(scorer, model), plan, options))
    start = time.monotonic()
    rows = [rows.scores for rows in execution.rows()]
    seconds = time.monotonic() - start
    return seconds, plan, np.concatenate(rows, dtype=np.float32) if rows else np.zeros(0, np.float32)


def seconds_of(scorer: Scorer, model: StoredModel, height: int, width: int, runs: int = RUNS) -> float:
    """Return the median seconds of some runs of one tile."""
    session, channels = native_session(scorer, model), model.spec.input.channels
    tile = np.random.default_rng(2).integers(0, 256, (height, width, channels), np.uint8)
    times = []
    for _ in range(runs):
        start = time.monotonic()
        session.score([tile])
        times.append(time.monotonic() - start)
    return statistics.median(times)


def compare_tilings(scorer: Scorer, model: StoredModel, side: int) -> str:
    """Compare an image in the smallest tiles with the same image in the largest; returns a line of text."""
    ample = Tuning(tile_bytes=1 << 36)
    (_, many, tiled), (_, few, whole) = (
        score(scorer, model, side, tuning, grid=True) for tuning in (SMALL_TILES, ample)
    )
    difference = np.abs(tiled - whole).max() / np.abs(whole).max()
    tiles = f"in {many.tile_count} tiles and in {few.tile_count}"
    return f"{side}×{side} {tiles}: differs by {difference:.1e} of the largest score"


def main() -> None:
    """Convert the network, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["vgg16", "digits"], default="vgg16", help="model (default: vgg16)")
    parser.add_argument(
        "--size", type=int, default=4096, help="height and width of the large image in pixels (default: 4096)"
    )
    parser.add_argument(
        "--whole", type=int, default=1024, help="height and width of the smaller image in pixels (default: 1024)"
    )
    parser.add_argument(
        "--sides", default="512,768,1024,1536", help="sides of tiles to measure in pixels (default: 512,768,1024,1536)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if arguments.model == "vgg16" else MODELS
        scorer = Scorer(folder)
        model = convert("vgg16", folder) if arguments.model == "vgg16" else scorer.model("digits")
        _, plan = planned(model, arguments.size, Tuning())
        height, width = plan.views[0].tile_plan.max_tile_shape
        network = plan.mode.network
        seconds_of(scorer, model, height, width, 1)
        before = seconds_of(scorer, model, height, width)
        took, plan, _ = score(scorer, model, arguments.size, Tuning(), grid=False)
        alone = statistics.mean([before, seconds_of(scorer, model, height, width)])
        one = plan.multiply_adds / len(plan.views[0].tile_plan)
        expected = plan.multiply_adds / (one / alone)
        print(f"one tile of {height}×{width}: {alone:.2f} s, {one / alone:.3g} multiply-adds per second")
        print(
            f"{arguments.size}×{arguments.size} in {plan.tile_count} tiles, {plan.multiply_adds:.3g} multiply-adds: "
            f"{took:.1f} s, {took / expected:.3f} times the prediction of this rate",
            flush=True,
        )
        print(compare_tilings(scorer, model, arguments.whole), flush=True)
        print("side    s   share of pixels kept   µs for each kept cell")
        for side in map(int, arguments.sides.split(",")):
            spent = seconds_of(scorer, model, side, side)
            kept = math.prod(
                (side - axis.window) // stride + 1 - axis.halo_before(stride) - axis.halo_after(stride)
                for axis, stride in network.axes
            )
            share = kept * math.prod(network.strides) / side**2
            print(
                f"{side:5} {spent:6.3f} {share:15.2f} {spent / kept * 1e6:20.1f}"
                if kept > 0
                else f"{side:5}  only halo"
            )


if __name__ == "__main__":
    main()
