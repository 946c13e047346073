"""Compares fp32, fp16 and int8: speed of a dense pass relative to fp32, size of the weights, agreement with fp32.

    python benchmarks/precision.py --arch vgg16 --size 384
    python benchmarks/precision.py --checkpoint models/digits/digits.safetensors --arch models/digits/digits.toml \
        --images models/digits --size 1024

Without --checkpoint, the architecture gets random weights and is calibrated on noise with the spectrum of photographs.
In every round, one process scores the same image with each precision; the results are the medians of the ratios.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyvips
from dense_against_crops import random_checkpoint, seconds

from converter import convert as conversion
from converter.report import Report
from converter.request import Precision
from converter.sources.architecture import load_architecture
from converter.sources.read import read_source
from converter.verify.images import PixelFormat, sample_images

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
        reports = {precision: convert(options, precision, folder) for precision in PRECISIONS}
        sizes = {precision: (folder / precision / "1" / "weights.data").stat().st_size for precision in PRECISIONS}
        sessions = {each: ort.InferenceSession(folder / each / "1" / "model.onnx") for each in PRECISIONS}
        channels = reports["fp32"].spec.input.channels
        image = next(
            sample_images((options.size,) * 2, PixelFormat(channels), options.images, np.random.default_rng(3))
        )[None]
        for session in sessions.values():
            seconds(session, image)
        rounds = [{each: seconds(sessions[each], image) for each in PRECISIONS} for _ in range(options.rounds)]
    for each in PRECISIONS:
        ratios = [times["fp32"] / times[each] for times in rounds]
        parity = reports[each].spec.parity[0].precision
        agreement = f"same top class as fp32 on {parity.top_class_agreement:.2%} of windows" if parity.windows else ""
        print(
            f"{each}  {sizes[each] / 1e6:7.1f} MB  {statistics.median(ratios):5.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f})  {agreement}"
        )


if __name__ == "__main__":
    main()
