"""Measures how much a grid or a heatmap adds to the time of scoring a large image.

    python benchmarks/grids.py [--size 4096] [--stride 8] [--classes 1000] [--strides 16,8] [--rounds 5]
    python benchmarks/grids.py --models DIR --model NAME [--size 4096] [--stride 8] [--rounds 5]

Without --models and --model, a padded network with random weights is converted: window 224, native stride 32, receptive
field 959 pixels, and 390 million multiply-adds for a window, about as many as EfficientNet-Lite0. A stride without a
file is computed by shifted passes; --strides converts files for further strides. In every round, one process scores an
image three times: without output, with --grid, and with --heatmap. The results are the medians of the ratios to the
time without output of the same round.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips
from random_networks import convert

from fullconv import Scorer
from fullconv.command.outputs import Outputs
from fullconv.command.task import ScoreTask
from fullconv.options import Options

WIDE = """
name = "wide"
channels = 3
window = [224, 224]
preprocess = "imagenet"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 32, kernel = 3, stride = 2, pad = 1 }, { op = "relu" },
  { op = "conv", key = "b", out = 56, kernel = 3, stride = 2, pad = 1 }, { op = "relu" },
  { op = "conv", key = "c", out = 80, kernel = 3, stride = 2, pad = 1 }, { op = "relu" },
  { op = "conv", key = "d", out = 112, kernel = 3, stride = 2, pad = 1 }, { op = "relu" },
  { op = "conv", key = "e", out = 112, kernel = 5, pad = 2 }, { op = "relu" },
  { op = "conv", key = "f", out = 112, kernel = 5, pad = 2 }, { op = "relu" },
  { op = "conv", key = "g", out = 112, kernel = 5, pad = 2 }, { op = "relu" },
  { op = "conv", key = "h", out = 136, kernel = 3, stride = 2, pad = 1 }, { op = "relu" },
  { op = "conv", key = "i", out = 136, kernel = 5, pad = 2 }, { op = "relu" },
  { op = "conv", key = "j", out = 136, kernel = 5, pad = 2 }, { op = "relu" },
  { op = "conv", key = "k", out = 136, kernel = 5, pad = 2 }, { op = "relu" },
  { op = "conv", key = "l", out = 136, kernel = 5, pad = 2 }, { op = "relu" },
  { op = "globalavgpool" }, { op = "flatten" },
  { op = "linear", key = "m" },
]
"""
SHADES = {4: 45.0, 32: 30.0, 256: 12.0}
"""For the number of cells along the side of a random pattern, its standard deviation in grey levels."""
GRAIN = 2.0
"""Standard deviation of the noise of every pixel in grey levels."""


def photograph(side: int, path: Path) -> None:
    """Write a square JPEG file with structures of all sizes; as in photographs, fine structures are fainter."""
    rng = np.random.default_rng(1)
    picture = rng.normal(128, GRAIN, (side, side, 3)).astype(np.float32)
    for cells, deviation in SHADES.items():
        pattern = pyvips.Image.new_from_array(rng.normal(0, deviation, (cells, cells, 3)).astype(np.float32))
        picture += pattern.resize(side / cells, kernel="linear").numpy()[:side, :side]
    pyvips.Image.new_from_array(np.clip(picture, 0, 255).astype(np.uint8)).jpegsave(str(path), Q=90)


def task(scorer: Scorer, model: str, stride: int, output: Path | None, *, plan_only: bool = False) -> ScoreTask:
    """Return the task of the command for one output: a heatmap if the suffix is .png, a grid for other suffixes."""
    options = Options(mode="dense", stride=stride, grid=output is not None)
    is_heatmap = output is not None and output.suffix == ".png"
    grids = (str(output),) if output and not is_heatmap else ()
    heatmaps = (str(output),) if is_heatmap else ()
    outputs = Outputs(grids=grids, heatmaps=heatmaps)
    return ScoreTask(scorer, model, "", options, outputs=outputs, plan_only=plan_only)


def seconds_of(task: ScoreTask, image: Path) -> float:
    """Run the task; returns its seconds."""
    start = time.monotonic()
    (document,) = task.run([image], quiet=True)
    if "error" in document:
        raise SystemExit(document["error"])
    return time.monotonic() - start


def made(folder: Path, strides: str, classes: int) -> str:
    """Convert the network with random weights into a folder; returns its name."""
    (folder / "wide.toml").write_text(WIDE, "utf-8")
    files = tuple(map(int, strides.split(","))) if strides else ()
    return convert(str(folder / "wide.toml"), folder, strides=files, classes=classes).name


def main() -> None:
    """Convert the network, run each job once to warm up, measure the rounds, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=int, default=4096, help="height and width of the image in pixels (default: 4096)"
    )
    parser.add_argument("--stride", type=int, default=8, help="pixels between windows (default: 8)")
    parser.add_argument("--classes", type=int, default=1000, help="classes of the network (default: 1000)")
    parser.add_argument("--strides", default="", help="further strides to convert files for (default: none)")
    parser.add_argument("--models", type=Path, help="folder of the converted model that --model names")
    parser.add_argument("--model", help="converted model to use in place of the network with random weights")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = arguments.model or made(folder, arguments.strides, arguments.classes)
        scorer, image = Scorer(arguments.models if arguments.model else folder), folder / "image.jpg"
        photograph(arguments.size, image)
        outputs = {"no output": None, "--grid": folder / "grid.npz", "--heatmap": folder / "heatmap.png"}
        for name, output in outputs.items():
            (document,) = task(scorer, model, arguments.stride, output, plan_only=True).run([image], quiet=True)
            plan = document["plan"]
            print(f"{name:>10} {plan['multiply_adds']:.4g} multiply-adds, {plan['bytes'] / 1e6:.0f} MB", flush=True)
            seconds_of(task(scorer, model, 32, output), image)
        seconds = {name: list[float]() for name in outputs}
        for _ in range(arguments.rounds):
            for name, output in outputs.items():
                seconds[name].append(seconds_of(task(scorer, model, arguments.stride, output), image))
                print(f"{name:>10} {seconds[name][-1]:7.2f} s", flush=True)
        for name, times in seconds.items():
            ratios = [one / none for one, none in zip(times, seconds["no output"], strict=True)]
            print(
                f"{name:>10} {statistics.median(times):7.2f} s (median), {statistics.median(ratios):.3f} of no output "
                f"({min(ratios):.3f} to {max(ratios):.3f})"
            )


if __name__ == "__main__":
    main()
