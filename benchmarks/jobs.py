"""Compares the throughput of a job with that of the network over the same decoded images, with nothing around it.

    python benchmarks/jobs.py [--model digits | vgg16] [--side 1024] [--count 100] [--suffix .jpg] [--rounds 5]

The images are decoded before, and one thread scores them one after the other; images of the window's size are scored in
batches of 32. The job reads and decodes the files, scores them and writes its results. Both run alternately in one
process; the result is the median of the ratios of their rates. VGG-16 has random weights.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyvips
from latency import repository
from numpy.typing import NDArray

from service.batch.engines import local_limits, local_scorer, run_here
from service.batch.listing import list_images
from service.batch.run import Run
from service.batch.stop import Stop
from service.batch.stores import LocalStore
from service.batch.work import Work
from service.batch.worker import make_worker
from service.images.arrays import ArrayInMemory, open_array
from service.scoring.execution import Execution
from service.scoring.scorer import Scorer, ScoringRequest

BATCH = 32
"""Images of the window's size that are scored together without a job."""


def make_images(folder: Path, side: int, count: int, channels: int, suffix: str) -> list[NDArray[np.uint8]]:
    """Write images of smooth noise; returns their pixels, decoded from the files."""
    rng, arrays = np.random.default_rng(0), []
    for number in range(count):
        coarse = rng.integers(0, 256, (side // 8 + 1, side // 8 + 1, channels), np.uint8)
        image = pyvips.Image.new_from_array(coarse).resize(8, kernel="linear").crop(0, 0, side, side).cast("uchar")
        path = folder / f"{number:05d}{suffix}"
        image.copy(interpretation="b-w" if channels == 1 else "srgb").write_to_file(str(path))
        pixels = pyvips.Image.new_from_file(str(path)).numpy()
        arrays.append(pixels.reshape(side, side, channels))
    return arrays


def alone(scorer: Scorer, model: str, arrays: Sequence[NDArray[np.uint8]]) -> None:
    """Score decoded images, with nothing around it."""
    served, stored = scorer.registry.get(model, "")
    window = stored.spec.window
    if arrays[0].shape[:2] == (window.height, window.width):
        session = scorer.registry.session(served, stored, 0)
        for first in range(0, len(arrays), BATCH):
            session.score(arrays[first : first + BATCH])
        return
    for pixels in arrays:
        picture = open_array("image", pixels.shape, "uint8", partial(ArrayInMemory, pixels))
        execution = Execution(scorer.plan(picture, ScoringRequest(model)))
        for _ in execution.rows():
            pass
        execution.result()


def make_job(models: Path, model: str, images: Path) -> Callable[[Path], None]:
    """Return a function that runs a job over the images, and writes its results into a new folder."""
    scorer = local_scorer(models)
    described = scorer.model(model)

    def job(out: Path) -> None:
        work, stop, store = Work(model, described.version, {}, str(out), ""), Stop(), LocalStore(out)
        worker = make_worker(work, scorer, store, pa.schema([]), stop, local_limits())
        run = Run(store, work, described.weights_sha256, stop=stop, as_json=True)
        document = run.run(list_images([str(images)]), partial(run_here, worker, stop=stop))
        if document["images"]["failed"]:
            raise SystemExit(f"images failed: {document}")

    return job


def main() -> None:
    """Print the rates and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", "vgg16"), default="digits", help="model (default: digits)")
    parser.add_argument("--side", type=int, default=1024, help="pixels of the images' sides (default: 1024)")
    parser.add_argument("--count", type=int, default=100, help="number of images (default: 100)")
    parser.add_argument("--suffix", choices=(".jpg", ".png", ".tif"), default=".jpg", help="format (default: .jpg)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        models = repository(options.model, folder / "models")
        (folder / "images").mkdir()
        plain = Scorer(models)
        channels = plain.model(options.model).spec.input.channels
        arrays = make_images(folder / "images", options.side, options.count, channels, options.suffix)
        job = make_job(models, options.model, folder / "images")
        alone(plain, options.model, arrays[:BATCH])
        job(folder / "warm")
        ratios = []
        for number in range(options.rounds):
            began = time.perf_counter()
            alone(plain, options.model, arrays)
            between = time.perf_counter()
            job(folder / f"out{number}")
            seconds = between - began, time.perf_counter() - between
            ratios.append(seconds[0] / seconds[1])
            rates = ", ".join(f"{options.count / each:.1f}" for each in seconds)
            print(f"images per second alone and in a job: {rates}; ratio {ratios[-1]:.3f}", flush=True)
        print(
            f"{options.model}, {options.count} images of {options.side}²: median ratio {statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
