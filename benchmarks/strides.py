"""Measures how much faster a finer grid is in one pass of its own file than by shifted passes of the native file.

    python benchmarks/strides.py [--network padded | unpadded] [--size 512] [--pairs 5]

Converts VGG-16 with random weights, or the same network without padding and with a window of 404 pixels, for strides 16
and 8. One process scores an image alternately with the file of the stride and by shift and stitch of the native file.
The table has the median of the ratios of such pairs, and the ratio of the multiply-adds in the two plans.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from random_networks import convert

from fullconv.protos import model_pb2
from service.engine.repository import StoredModel
from service.images.arrays import ArrayInMemory, open_array
from service.limits import Limits, Tuning
from service.scoring.execution import Execution
from service.scoring.options import ModeChoice, RequestedOptions, resolve
from service.scoring.plan import Bounds, ImageSizes, Plan, make_plan
from service.scoring.planned import PlannedImage
from service.scoring.scorer import Scorer

ARCHITECTURES = Path(__file__).parents[1] / "converter" / "architectures"
STRIDES = (16, 8)


def unpadded(folder: Path) -> str:
    """Write VGG-16 without padding as a TOML file, with its receptive field of 404 pixels as the window."""
    text = (ARCHITECTURES / "vgg16.toml").read_text("utf-8")
    text = text.replace(", pad = 1", "").replace("224", "404").replace('name = "vgg16"', 'name = "unpadded16"')
    path = folder / "unpadded16.toml"
    path.write_text(text, "utf-8")
    return str(path)


def native_only(model: StoredModel) -> StoredModel:
    """Return the model without its other files, so that finer strides are computed by shifted passes."""
    spec = model_pb2.ModelSpec()
    spec.CopyFrom(model.spec)
    for entries in (spec.strides, spec.cost, spec.parity):
        del entries[1:]
    return replace(model, serialized_spec=spec.SerializeToString())


def score(
    scorer: Scorer, model: StoredModel, image: NDArray[np.uint8], stride: int
) -> tuple[float, Plan, NDArray[np.float32]]:
    """Score an image; returns seconds, plan and grid."""
    options = resolve(model, RequestedOptions(stride=stride, mode=ModeChoice.DENSE, grid=True))
    plan = make_plan(
        model, options, ImageSizes(image.shape[:2], image.shape[:2]), Bounds(1 << 40, Limits().plan_bytes, Tuning())
    )
    picture = open_array("noise", image.shape, "uint8", lambda: ArrayInMemory(image))
    served, _ = scorer.registry.get(model.name, model.version)
    session = scorer.registry.session(served, model, plan.mode.position)
    execution = Execution(PlannedImage(picture, model, session, plan, options))
    start = time.monotonic()
    grid = np.concatenate([rows.scores for rows in execution.rows()], dtype=np.float32)
    return time.monotonic() - start, plan, grid


def main() -> None:
    """Convert the network, run each once to warm up, measure the pairs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["padded", "unpadded"], default="padded", help="(default: padded)")
    parser.add_argument("--size", type=int, default=512, help="height and width of the image in pixels (default: 512)")
    parser.add_argument("--pairs", type=int, default=5, help="number of pairs (default: 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arch = "vgg16" if arguments.network == "padded" else unpadded(folder)
        model, scorer = convert(arch, folder, strides=STRIDES), Scorer(folder)
        pixels = np.random.default_rng(1).integers(0, 256, (arguments.size, arguments.size, 3), np.uint8)
        print("stride  passes  cells      one pass   shifted  ratio (lowest to highest)  of multiply-adds  difference")
        for stride in STRIDES:
            ways = (model, native_only(model))
            if arguments.pairs > 1:
                for way in ways:
                    score(scorer, way, pixels, stride)
            pairs = [[score(scorer, way, pixels, stride) for way in ways] for _ in range(arguments.pairs)]
            (one, plan, grid), (_, shifted, other) = pairs[-1]
            difference = np.abs(grid - other).max() / np.abs(other).max()
            ratios = [pair[1][0] / pair[0][0] for pair in pairs]
            one, four = (statistics.median(pair[way][0] for pair in pairs) for way in (0, 1))
            print(
                f"{stride:6} {(32 // stride) ** 2:7} {grid.shape[0]:4}×{grid.shape[1]:<4} {one:8.2f} s {four:8.2f} s "
                f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
                f"{shifted.multiply_adds / plan.multiply_adds:22.2f}  {difference:10.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
