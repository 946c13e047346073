"""Scores a slide with every kind of result, paired with the averages alone: time, memory and sizes.

    python benchmarks/slide.py [--folder FOLDER] [--width 20000 --height 15000] [--stride 32] [--runs 3]
                               [--network FILE] [--tile-mib N]

Makes a slide and a small network (`slide_files.py`), or takes the checkpoint of another network of three classes, such
as a ResNet-50. Converts the network with `fullconv-convert --mpp 0.5`, and runs `fullconv-score --mask otsu`
alternately without files and with all of them. Prints the median ratio of the times, the peak memory of each kind
beyond that of a process that only describes the model, the size of each file, and the largest difference of each grid
from the .npz file.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from slide_files import LABELS, TRAINED_MICRONS, write_network, write_slide

from fullconv.common.probabilities import SOFTMAX, probabilities

GRIDS = ("npz", "csv", "geojson", "tif")
FILES = [
    *(argument for suffix in GRIDS for argument in ("--grid", f"grid.{suffix}")),
    "--heatmap", "heatmap.png", "--heatmap", "heatmap.tif", "--html", "page.html", "--boxes", "boxes.geojson",
]  # fmt: skip
COLOURS = ("#d0d0d0", "#e080b0", "#6030a0")


@dataclass(frozen=True)
class Run:
    """One process: its seconds, and its peak memory in bytes."""

    seconds: float
    peak: int


def run(folder: Path, *arguments: str) -> Run:
    """Run a command of this project in a folder."""
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, stdout=subprocess.DEVNULL) as process:  # noqa: S603 (this repository's commands)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {process.returncode}")
    return Run(time.monotonic() - started, usage.ru_maxrss << 10)


def main() -> None:
    """Make the files, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the files here (default: a temporary folder)")
    parser.add_argument("--width", type=int, default=20_000, help="of the slide, in pixels (default: 20000)")
    parser.add_argument("--height", type=int, default=15_000, help="of the slide, in pixels (default: 15000)")
    parser.add_argument("--stride", default="32", help="between windows, in pixels at half a micrometre (default: 32)")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs (default: 3)")
    parser.add_argument("--network", type=Path, help="checkpoint of three classes (default: the small network)")
    parser.add_argument("--tile-mib", help="of fullconv-score (default: its default)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, options)
        tiles = () if options.tile_mib is None else ("--tile-mib", options.tile_mib)
        measure(folder, ("--stride", options.stride, *tiles), options.runs)
        for line in compared(folder):
            print(line)


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Make the slide, unless it is there, and the model."""
    if not (folder / "slide.tif").exists():
        write_slide(folder / "slide.tif", options.width, options.height)
    network, preprocessing = options.network, "imagenet"
    if network is None:
        network, preprocessing = folder / "tissue.onnx", "unit"
        write_network(network)
    labels = "".join(f"{label} {colour}\n" for label, colour in zip(LABELS, COLOURS, strict=True))
    (folder / "labels.txt").write_text(labels, "utf-8")
    run(
        folder, "converter", str(network.absolute()), "-o", "models/tissue/1", "--force", "--labels", "labels.txt",
        "--preprocess", preprocessing, "--mpp", str(TRAINED_MICRONS),
    )  # fmt: skip


def measure(folder: Path, options: tuple[str, ...], runs: int) -> None:
    """Run without files and with all files in turn, and print the figures."""
    score = ("fullconv", "slide.tif", "--model", "tissue", "--mask", "otsu", *options)
    idle = run(folder, "fullconv", "--model", "tissue", "--describe")
    pairs = [(run(folder, *score), run(folder, *score, *FILES)) for _ in range(runs)]
    ratio = statistics.median(full.seconds / bare.seconds for bare, full in pairs)
    seconds = [statistics.median(each[kind].seconds for each in pairs) for kind in (0, 1)]
    print(f"all files: {ratio:.2f} times the time of the averages alone ({seconds[1]:.1f} and {seconds[0]:.1f} s)")
    for name, kind in (("averages alone", 0), ("all files", 1)):
        peak = max(pair[kind].peak for pair in pairs)
        print(f"{name}: {(peak - idle.peak) / 1e6:.0f} MB above a process that only describes the model")


def compared(folder: Path) -> Iterator[str]:
    """Yield a line for each file: its size, and the difference of its numbers from those of the .npz file."""
    with np.load(folder / "grid.npz") as grid:
        expected = probabilities(grid["scores"], SOFTMAX)
    readers = {"csv": _csv, "geojson": _geojson}
    scored = expected[~np.isnan(expected[..., 0])]
    for path in sorted(folder.glob("*.*")):
        suffix, size = path.suffix[1:], f"{path.name}: {path.stat().st_size / 1e6:.1f} MB"
        if path.stem == "grid" and suffix in readers:
            difference = np.abs(readers[suffix](path) - scored).max()
            yield f"{size}, {len(scored)} windows, largest difference {difference:.1g}"
        elif path.name == "grid.tif":
            bands = np.moveaxis(tifffile.imread(path), 0, -1)
            yield f"{size}, largest difference {np.nanmax(np.abs(bands - expected)):.1g}"
        elif path.stem in ("grid", "heatmap", "page", "boxes"):
            yield size


def _csv(path: Path) -> NDArray[np.float64]:
    with path.open(newline="") as file:
        return np.array([[float(row[f"prob_{label}"]) for label in LABELS] for row in csv.DictReader(file)])


def _geojson(path: Path) -> NDArray[np.float64]:
    features = json.loads(path.read_bytes())["features"]
    return np.array([[each["properties"]["measurements"][f"prob_{label}"] for label in LABELS] for each in features])


if __name__ == "__main__":
    main()
