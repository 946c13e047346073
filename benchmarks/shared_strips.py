"""Measures memory and time of mode shared for strips of an image that grow, and prints a table.

    pip install torch torchvision
    python benchmarks/shared_strips.py [--network vgg11] [--width 480] [--heights 4096 16384 65536]

An architecture of torchvision gets random weights and is converted. Strips of noise are written into tiled TIFF files,
and each is scored in mode shared in a process of its own, its rows as they come. The memory is the peak beyond that of
the process after it has scored one window. The table also has the seconds for each megapixel relative to those of the
first strip.
"""

import argparse
import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from architectures import WINDOW, converted
from gigapixel import Figures, measured

from fullconv import Scorer

TILE = 256
"""Pixels of a side of a TIFF file's tiles."""


def main() -> None:
    """Convert the network, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg11", help="name of an architecture (default: vgg11)")
    parser.add_argument("--width", type=int, default=480, help="width of the strips in pixels (default: 480)")
    parser.add_argument("--heights", type=int, nargs="+", default=[4096, 16384, 65536], help="their heights in pixels")
    parser.add_argument("--preload", help="module to import before torchvision, if torchvision needs it")
    options = parser.parse_args()
    if options.preload:
        importlib.import_module(options.preload)
    with converted(options.network) as folder:
        first = 0.0
        print("megapixels       s    s/MP  of the first     MB", flush=True)
        for height in options.heights:
            strip = folder / f"{height}.tif"
            write_strip(strip, height, options.width)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                figures = pool.submit(measure, folder, strip).result()
            megapixels = height * options.width / 1e6
            each = figures.seconds / megapixels
            first = first or each
            print(
                f"{megapixels:10.1f} {figures.seconds:7.1f} {each:7.3f} {each / first:13.2f} {figures.above_idle:6.0f}",
                flush=True,
            )


def write_strip(path: Path, height: int, width: int) -> None:
    """Write a strip of noise as a tiled TIFF file."""
    noise = np.random.default_rng(0).integers(0, 256, (TILE * 16, width, 3), np.uint8)
    strip = np.tile(noise, (-(-height // len(noise)), 1, 1))[:height]
    tifffile.imwrite(path, strip, tile=(TILE, TILE), photometric="rgb")


def measure(models: Path, strip: Path) -> Figures:
    """Measure a strip that this process scores."""
    with Scorer(models) as scorer:
        scorer.score(np.zeros((WINDOW, WINDOW, 3), np.uint8), model="net", mode="shared")

        def score() -> None:
            with scorer.score_large(strip, model="net", mode="shared", grid=True) as stream:
                for _ in stream.bands():
                    pass

        return measured(score, 1)


if __name__ == "__main__":
    main()
