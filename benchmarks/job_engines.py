"""Checks that a job gives the same bytes with every engine, also if it is killed or a node is lost, and times it.

    python benchmarks/job_engines.py [--count 2000] [--largest 4096] [--kills 10] [--ray]

The images have sides of 64 to --largest pixels and are JPEG, PNG and TIFF files. The job runs in one process; with
three servers; in processes that are killed at --kills random moments; and with --ray on two nodes of one CPU each, one
of which is killed half-way. Every run writes grids. The program prints the seconds, the parts and images that were
scored twice, and ends with status 1 if any byte of the results differs. Seconds of one machine are no measure of
engines: all of them share its CPUs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import file_digest
from pathlib import Path
from threading import Thread

import numpy as np
import pyvips
from latency import MODELS, served

COMMAND = (sys.executable, "-c", "from service.batch.cli import main; main()")
SUFFIXES = (".jpg", ".png", ".tif")


def make_images(folder: Path, count: int, largest: int) -> None:
    """Write images whose sides are distributed evenly on a logarithmic scale."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = (int(side) for side in np.exp(rng.uniform(np.log(64), np.log(largest + 1), 2)))
        coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 1), np.uint8)
        image = pyvips.Image.new_from_array(coarse).resize(8, kernel="linear").crop(0, 0, width, height)
        image.cast("uchar").copy(interpretation="b-w").write_to_file(
            str(folder / f"{number:05d}{SUFFIXES[number % 3]}")
        )


def written(out: Path) -> dict[str, str]:
    """Return the hashes of the files of a job's results, without the times."""
    hashes = {}
    for path in out.rglob("*"):
        if path.is_file() and not path.name.startswith(".lock") and path.parent.name != "timing":
            with path.open("rb") as file:
                hashes[str(path.relative_to(out))] = file_digest(file, "sha256").hexdigest()
    return hashes


def parts_of(events: str) -> list[tuple[int, int]]:
    """Return the number, and the number of images, of every part that a run has finished."""
    found = [json.loads(line) for line in events.splitlines() if line.startswith("{") and line.endswith("}")]
    return [(event["number"], event["images"]) for event in found if event["event"] == "part"]


def run(arguments: Sequence[str], out: Path, seconds: float | None = None) -> tuple[bool, list[tuple[int, int]]]:
    """Run a job, and kill it after some seconds; returns whether it has ended by itself, and its finished parts."""
    with (out.parent / "events").open("w+", encoding="utf-8") as events:
        command = [*COMMAND, *arguments, "-o", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=events)  # noqa: S603 (this program)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        events.seek(0)
        lines = events.read()
    if status not in (0, 3, -9):
        raise SystemExit(lines)
    return status != -9, parts_of(lines)


def run_killed(arguments: Sequence[str], out: Path, kills: int, seconds: float) -> list[tuple[int, int]]:
    """Run a job that is killed at random moments, and then to its end; returns all parts that were finished."""
    rng, parts, ended, done = np.random.default_rng(0), list[tuple[int, int]](), False, 0
    while not ended:
        last = done == kills
        ended, finished = run(arguments, out, None if last else float(rng.uniform(2, 2 + 2 * seconds / (kills + 1))))
        done += not ended
        parts += finished
    print(f"killed {done} times")
    return parts


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, "LostNode"]]:
    """Yield the address of a Ray cluster of two nodes, and the node that can be killed."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (an extra)

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = nodes.add_node(num_cpus=1)
    try:
        yield nodes.address, LostNode(nodes, node, folder)
    finally:
        nodes.shutdown()


class LostNode:
    """A node that is killed when a folder of results has some parts."""

    def __init__(self, nodes: object, node: object, out: Path) -> None:
        self._nodes, self._node, self._out = nodes, node, out

    def kill_after(self, parts: int) -> None:
        """Wait for the parts, and kill the node."""
        while len(list((self._out / "results").glob("part-*"))) < parts:
            time.sleep(0.1)
        self._nodes.remove_node(self._node, allow_graceful=False)  # type: ignore[attr-defined]


def main() -> None:
    """Run the jobs, and compare their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="number of images (default: 2000)")
    parser.add_argument("--largest", type=int, default=4096, help="largest side in pixels (default: 4096)")
    parser.add_argument("--kills", type=int, default=10, help="how often the killed job is killed (default: 10)")
    parser.add_argument("--ray", action="store_true", help="score on a Ray cluster of two nodes too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        make_images(folder / "images", options.count, options.largest)
        images = [str(folder / "images"), "--grids", "npz", "--json", "--model", "digits"]
        here = [*images, "--models", str(MODELS)]
        began = time.perf_counter()
        _, parts = run(here, folder / "local")
        seconds = time.perf_counter() - began
        expected = written(folder / "local")
        print(f"local: {seconds:.0f} s, {len(parts)} parts, {len(expected)} files", flush=True)
        same = True

        def compare(what: str, out: str, finished: list[tuple[int, int]]) -> None:
            nonlocal same
            is_same = written(folder / out) == expected
            same = same and is_same
            twice = len(finished) - len(set(finished))
            took = time.perf_counter() - began
            print(f"{what}: {took:.0f} s, the same bytes: {is_same}, parts finished twice: {twice}", flush=True)

        began = time.perf_counter()
        with ExitStack() as servers:
            addresses = ",".join(servers.enter_context(served(MODELS)).address for _ in range(3))
            compare("three servers", "servers", run([*images, "--server", addresses], folder / "servers")[1])
        began = time.perf_counter()
        compare("killed", "killed", run_killed(here, folder / "killed", options.kills, seconds))
        if options.ray:
            with cluster(folder / "ray") as (address, lost):
                began = time.perf_counter()
                killing = Thread(target=lost.kill_after, args=(len(parts) // 2,))
                killing.start()
                finished = run([*here, "--engine", "ray", "--address", address], folder / "ray")[1]
                killing.join()
                compare("two Ray nodes, one killed half-way", "ray", finished)
    sys.exit(not same)


if __name__ == "__main__":
    main()
