"""Compares another provider with ONNX Runtime on the CPU in fp32: difference of the scores, and speed.

    python benchmarks/providers.py [--provider openvino] [--precision bf16] [--model digits | vgg16] [--side 1024]

One process scores tiles of side × side pixels, in batches of one and of four, alternately with ONNX Runtime and with
the other provider. The result is the median of the ratios of such pairs. VGG-16 has random weights.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from latency import repository

from fullconv.common.names import PRECISIONS
from service.dense.arrays import Pixels
from service.engine.backend import Backend
from service.engine.repository import ModelRepository
from service.engine.session import Session


def seconds(session: Session, tiles: list[Pixels]) -> float:
    """Return the seconds of one batch."""
    started = time.perf_counter()
    session.score(tiles)
    return time.perf_counter() - started


def main() -> None:
    """Measure both batch sizes, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", choices=PRECISIONS, default="openvino", help="(default: openvino)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="(default: bf16)")
    parser.add_argument("--model", choices=("digits", "vgg16"), default="digits", help="model (default: digits)")
    parser.add_argument("--side", type=int, default=1024, help="side of a tile in pixels (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5, help="number of pairs (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = ModelRepository(repository(options.model, Path(folder))).open(options.model, "1")
        cpu, other = Session(model), Session(model, backend=Backend(options.provider, options.precision))
        shape = (options.side, options.side, model.spec.input.channels)
        for count in (1, 4):
            tiles: list[Pixels] = list(np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8))
            expected, got = cpu.score(tiles), other.score(tiles)
            same = np.mean(expected.argmax(-1) == got.argmax(-1))
            difference = np.abs(expected - got).max() / np.abs(expected).max()
            ratios = [seconds(cpu, tiles) / seconds(other, tiles) for _ in range(options.rounds)]
            print(
                f"{options.model}, batch of {count} tiles of {options.side}² pixels: scores differ by at most "
                f"{difference:.1e} of the largest score, the top class is the same in {same:.2%} of the cells; "
                f"{other.backend} is {statistics.median(ratios):.1f} times as fast as the CPU "
                f"({min(ratios):.1f} to {max(ratios):.1f})"
            )


if __name__ == "__main__":
    main()
