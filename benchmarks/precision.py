"""Compares fp32, fp16 and int8 with every backend: speed of a dense pass, size of the weights, agreement with fp32.

    python benchmarks/precision.py --arch vgg16 --size 384
    python benchmarks/precision.py --checkpoint models/digits/digits.safetensors --arch models/digits/digits.toml \
        --images models/digits --size 1024

Without --checkpoint, the architecture gets random weights and is calibrated on noise with the spectrum of photographs.
In every round, one process scores the same image with each precision; the results are the medians of the ratios.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips
from random_networks import random_checkpoint

from converter import convert as conversion
from converter.report import Report
from converter.request import Precision
from converter.sources.architecture import load_architecture
from converter.sources.read import read_source
from converter.verify.given_images import given_images
from converter.verify.images import PixelFormat, sample_images
from service import machine
from service.dense.arrays import Pixels
from service.engine.backend import REFERENCE
from service.engine.choice import suitable_backends
from service.engine.executables import Threads
from service.engine.repository import ModelRepository
from service.engine.requested_backend import RequestedBackend
from service.engine.session import Session

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def write_images(folder: Path) -> None:
    """Write images of noise with the spectrum of photographs."""
    folder.mkdir()
    images = sample_images((768, 768), PixelFormat(3), None, np.random.default_rng(5))
    for number, pixels in zip(range(8), images, strict=False):
        pyvips.Image.new_from_array(pixels).write_to_file(folder / f"{number}.png")


def convert(options: argparse.Namespace, precision: Precision, folder: Path) -> Report:
    """Convert the checkpoint in one precision to FOLDER/PRECISION/1; returns the report."""
    classifier = read_source(options.checkpoint, arch=options.arch, window=None)
    silent = conversion.Progress(step=lambda *_: None, advance=lambda: None)
    least = None if precision == "fp32" else 0.0
    target = folder / precision / "1"
    request = conversion.Request(target, images=options.images, precision=precision, min_agreement=least)
    return conversion.convert(classifier, request, silent)


def sessions(folder: Path) -> dict[str, Session]:
    """Return a session of each precision with every backend of this machine that is meant for it."""
    backends = RequestedBackend().backends()
    repository = ModelRepository(folder)
    found = {}
    for precision in PRECISIONS:
        model = repository.open(precision, "1")
        for backend in suitable_backends(model, backends):
            found[f"{precision} by {backend}"] = Session(model, backend=backend, threads=Threads(machine.cpus()))
    return found


def main() -> None:
    """Convert in each precision, run each once to warm up, measure the rounds, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vgg16", help="a shipped architecture, or a TOML file (default: vgg16)")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint of the architecture (default: random weights)")
    parser.add_argument("--images", type=Path, help="folder of images for calibration and comparison")
    parser.add_argument("--size", type=int, default=384, help="height and width of the image in pixels (default: 384)")
    parser.add_argument("--rounds", type=int, default=8, help="number of rounds (default: 8)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.checkpoint is None:
            options.checkpoint, options.images = folder / "random.safetensors", folder / "images"
            random_checkpoint(load_architecture(options.arch), options.checkpoint)
            write_images(options.images)
        models = folder / "models"
        reports = {precision: convert(options, precision, models) for precision in PRECISIONS}
        sizes: dict[str, int] = {
            precision: (models / precision / "1" / "weights.data").stat().st_size for precision in PRECISIONS
        }
        channels = reports["fp32"].spec.input.channels
        pixel_format = PixelFormat(channels)
        given = given_images(options.images, pixel_format, (1, 1)).readable if options.images else None
        images = sample_images((options.size,) * 2, pixel_format, given, np.random.default_rng(3))
        image = [next(images)]
        compared = sessions(models)
        scores = {each: session.score(image) for each, session in compared.items()}
        rounds = [{each: seconds(session, image) for each, session in compared.items()} for _ in range(options.rounds)]
    reference = f"fp32 by {REFERENCE}"
    top = scores[reference].argmax(-1)
    for each, got in scores.items():
        ratios = [times[reference] / times[each] for times in rounds]
        difference = np.linalg.norm(got - scores[reference]) / np.linalg.norm(scores[reference])
        print(
            f"{each:24} {sizes[each.split()[0]] / 1e6:7.1f} MB  {statistics.median(ratios):5.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f})  relative difference {difference:.1e}  "
            f"same top class on {np.mean(got.argmax(-1) == top):.2%} of {top.size} windows"
        )


def seconds(session: Session, image: list[Pixels]) -> float:
    """Return the seconds of one run."""
    started = time.perf_counter()
    session.score(image)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
