"""Compares the rates of jobs with --engine ray on one node and with --engine local, over the same images.

    python benchmarks/ray_rate.py [--model digits | vgg16] [--side 1024] [--count 300] [--suffix .jpg] [--rounds 5]
    python benchmarks/ray_rate.py --large 16384

Both engines use all CPUs and run alternately, each as a command. Each also scores FEW images, which gives the seconds
until the first images are scored; the rate is that of the other images. The result is the median of the ratios of the
rates. --large scores one tiled TIFF file of as many pixels along each side instead, on one node and on two nodes with
half of the CPUs each. VGG-16 has random weights.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from jobs import make_images
from latency import repository

from service import machine
from service.scoring.scorer import Scorer

FEW = 8
COMMAND = (sys.executable, "-c", "from service.batch.cli import main; main()")


@contextmanager
def cluster(nodes: int) -> Iterator[list[str]]:
    """Yield the options of a job on a cluster of some nodes, which share the CPUs of this machine; none for 0 nodes."""
    if not nodes:
        yield []
        return
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (an extra)

    cpus = max(1, machine.cpus() // nodes)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    for _ in range(nodes - 1):
        made.add_node(num_cpus=cpus)
    try:
        yield ["--engine", "ray", "--address", made.address]
    finally:
        made.shutdown()


def run_job(images: Path, models: Path, model: str, *options: str) -> tuple[float, list[dict[str, Any]]]:
    """Run a job; returns its seconds without the start of the command, and its events."""
    with tempfile.TemporaryDirectory() as out:
        command = [*COMMAND, str(images), "--models", str(models), "--model", model, "-o", out, "--json", *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 (this program)
        if done.returncode:
            raise SystemExit(done.stderr)
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        return float(json.loads(done.stdout)["seconds"]), events


def compare_engines(options: argparse.Namespace, folder: Path) -> None:
    """Print the rates of both engines, and the median of their ratios."""
    (folder / "models").mkdir()
    models = repository(options.model, folder / "models")
    channels = Scorer(models).model(options.model).spec.input.channels
    for name, count in (("few", FEW), ("all", options.count)):
        (folder / name).mkdir()
        make_images(folder / name, options.side, count, channels, options.suffix)
    ratios = []
    with cluster(1) as ray:
        for _ in range(options.rounds):
            rates, starts = [], []
            for engine in ([], ray):
                few, every = (run_job(folder / name, models, options.model, *engine)[0] for name in ("few", "all"))
                rates.append((options.count - FEW) / (every - few))
                starts.append(few)
            ratios.append(rates[1] / rates[0])
            print(
                f"images per second local and on one node: {rates[0]:.1f}, {rates[1]:.1f}; ratio {ratios[-1]:.3f}; "
                f"seconds for {FEW} images: {starts[0]:.1f}, {starts[1]:.1f}",
                flush=True,
            )
    print(f"{options.model}, {options.count} images of {options.side}²: median ratio {statistics.median(ratios):.3f}")


def compare_nodes(options: argparse.Namespace, folder: Path) -> None:
    """Print the seconds of one large image in this process, on one node and on two nodes."""
    side = options.large
    coarse = np.random.default_rng(0).integers(0, 256, (side // 64 + 1,) * 2, np.uint8)
    image = pyvips.Image.new_from_array(coarse).resize(64, kernel="linear").crop(0, 0, side, side).cast("uchar")
    (folder / "images").mkdir()
    image.tiffsave(str(folder / "images" / "large.tif"), tile=True, tile_width=512, tile_height=512, bigtiff=True)
    models = repository("digits", folder)
    for _ in range(options.rounds):
        for name, nodes in (("local", 0), ("one node", 1), ("two nodes", 2)):
            with cluster(nodes) as engine:
                seconds, events = run_job(folder / "images", models, "digits", "--grids", "zarr", *engine)
            sections = [event["time"] for event in events if event["event"] == "section"]
            merging = events[-1]["time"] - sections[-1] if sections else 0.0
            first = sections[0] - events[0]["time"] if sections else 0.0
            print(
                f"{side}²: {name}: {seconds:.1f} s; sections: {len(sections)}, the first after {first:.1f} s; "
                f"merging {merging:.1f} s",
                flush=True,
            )


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", "vgg16"), default="digits", help="model (default: digits)")
    parser.add_argument("--side", type=int, default=1024, help="pixels of the images' sides (default: 1024)")
    parser.add_argument("--count", type=int, default=300, help="number of images (default: 300)")
    parser.add_argument("--suffix", choices=(".jpg", ".png", ".tif"), default=".jpg", help="format (default: .jpg)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default: 5)")
    parser.add_argument("--large", type=int, default=0, help="pixels of the sides of one large image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (compare_nodes if options.large else compare_engines)(options, Path(name))


if __name__ == "__main__":
    main()
