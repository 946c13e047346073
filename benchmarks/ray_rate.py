"""Compares the rate of an actor of a Ray cluster with that of the engine `local`, and times one large image.

    python benchmarks/ray_rate.py [--model digits | vgg16] [--side 1024] [--count 64] [--suffix .jpg] [--rounds 15]
    python benchmarks/ray_rate.py --large 16384 [--rounds 3]

Both engines use all CPUs, and score the same part alternately: a worker in this process, and the actor of a cluster of
one node, which both have opened the model before. The result is the median of the ratios of their rates. --large scores
one tiled TIFF file of as many pixels along each side instead: in one process, on one node, and on two nodes with half
of the CPUs each, each as a command. VGG-16 has random weights.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from jobs import make_images
from latency import repository

from service import machine
from service.batch.engines import local_limits, local_scorer
from service.batch.job import Part
from service.batch.listing import list_images
from service.batch.node_worker import NodeConfig
from service.batch.ray_cluster import RayCluster, load_ray
from service.batch.stop import Stop
from service.batch.stores import LocalStore
from service.batch.work import Work
from service.batch.worker import make_worker
from service.scoring.scorer import Scorer

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
    (folder / "images").mkdir()
    models = repository(options.model, folder / "models")
    channels = Scorer(models).model(options.model).spec.input.channels
    make_images(folder / "images", options.side, options.count, channels, options.suffix)
    images, scorer, limits = list_images([str(folder / "images")]), local_scorer(models), local_limits()
    described, part = scorer.model(options.model), Part(0, images)
    work = Work(options.model, described.version, {}, str(folder / "out"), "")
    carried = images.carried.schema
    worker = make_worker(work, scorer, LocalStore(folder / "out"), carried, Stop(), limits)
    config = NodeConfig(work, str(models), described.weights_sha256, carried, cpus=machine.cpus())
    with cluster(1) as engine:
        ray = RayCluster(load_ray(), engine[-1])
        with ray.connected():
            actor = ray.actor(next(iter(ray.nodes())), config.cpus, limits.threads + 1)

            def on_node() -> None:
                ray.ray.get(actor.run.remote(config, part))

            pairs = alternately(options.rounds, lambda: worker.run(part), on_node)
    for here, there in pairs:  # Ray's output and other output is dropped while there is a connection
        rates = f"{options.count / here:.1f}, {options.count / there:.1f}"
        print(f"images per second local and on one node: {rates}; ratio {here / there:.3f}")
    ratio = statistics.median(here / there for here, there in pairs)
    print(f"{options.model}, {options.count} images of {options.side}²: median ratio {ratio:.3f}")


def alternately(
    rounds: int, here: Callable[[], object], on_node: Callable[[], object]
) -> Sequence[tuple[float, float]]:
    """Run both alternately; returns their seconds, after a first run that warms them up."""
    pairs = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        here()
        between = time.perf_counter()
        on_node()
        pairs.append((between - began, time.perf_counter() - between))
    return pairs[1:]


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
    parser.add_argument("--count", type=int, default=64, help="number of images (default: 64)")
    parser.add_argument("--suffix", choices=(".jpg", ".png", ".tif"), default=".jpg", help="format (default: .jpg)")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of runs (default: 15)")
    parser.add_argument("--large", type=int, default=0, help="pixels of the sides of one large image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (compare_nodes if options.large else compare_engines)(options, Path(name))


if __name__ == "__main__":
    main()
