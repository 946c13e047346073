"""Compares the throughput of a server with that of ONNX Runtime alone, in images of the window's size per second.

    python benchmarks/throughput.py [--model digits | vgg16] [--clients 64] [--rounds 3] [--png]

ONNX Runtime alone runs batches of 1 to 32 windows in a process of its own; its best batch size counts. The server gets
the same windows from another process on the same CPUs, which makes --clients concurrent calls. Both are measured
alternately; the result is the median of the ratios. VGG-16 has random weights.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
import pyvips
from latency import repository, served

from fullconv.encode import image_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2
from service.scoring.scorer import Scorer

BATCHES = (1, 2, 4, 8, 16, 32)
METHOD = "/fullconv.v1.Scoring/Score"


def alone(models: Path, model: str, seconds: float) -> tuple[float, int]:
    """Return the windows per second of ONNX Runtime at its best batch size, and this size."""
    registry = Scorer(models).registry
    served, stored = registry.get(model, "")
    session = registry.session(served, stored, 0)
    shape = (stored.spec.window.height, stored.spec.window.width, stored.spec.input.channels)
    window = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rates = {}
    for size in BATCHES:
        session.score([window] * size)
        began, runs = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / len(BATCHES):
            session.score([window] * size)
            runs += 1
        rates[size] = runs * size / (time.perf_counter() - began)
    best = max(rates, key=lambda size: rates[size])
    return rates[best], best


async def served_rate(
    address: str, request: bytes, clients: int, seconds: float, *, method: str = METHOD
) -> tuple[float, float]:
    """Return the calls per second that a server answers, and the 95th percentile of the latency in milliseconds."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        parse = scoring_pb2.ScoreResponse.FromString if method == METHOD else None
        score = channel.unary_unary(method, response_deserializer=parse)

        async def caller(until: float) -> None:
            while (began := time.perf_counter()) < until:
                await score(request)
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(caller(time.perf_counter() + 1) for _ in range(clients)))
        took.clear()
        began = time.perf_counter()
        await asyncio.gather(*(caller(began + seconds) for _ in range(clients)))
        return len(took) / (time.perf_counter() - began), float(np.percentile(took, 95)) * 1e3


def request_of(models: Path, model: str, *, png: bool) -> bytes:
    """Return a serialized request with one window, as raw pixels or as a PNG file."""
    spec = Scorer(models).model(model).spec
    shape = (spec.window.height, spec.window.width, spec.input.channels)
    window = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = image_message(source_of(pyvips.Image.new_from_array(window).write_to_buffer(".png") if png else window))
    return scoring_pb2.ScoreRequest(model=model, image=image).SerializeToString()


def in_a_process(*arguments: str, program: str = __file__) -> list[float]:
    """Run a program, by default this one, for one measurement; returns the numbers that it prints."""
    command = [sys.executable, program, *arguments]
    return [float(word) for word in subprocess.run(command, check=True, capture_output=True).stdout.split()]  # noqa: S603


def main() -> None:
    """Measure the rounds, and print the ratios. --measure is for the processes that this program starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", "vgg16"), default="digits", help="model (default: digits)")
    parser.add_argument("--clients", type=int, default=64, help="number of concurrent calls (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--seconds", type=float, default=12, help="seconds of each measurement (default: 12)")
    parser.add_argument("--png", action="store_true", help="send PNG files instead of raw pixels")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "WHERE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, where = options.measure
        if what == "alone":
            print(*alone(Path(where), options.model, options.seconds))
        else:
            models, _, address = where.rpartition("@")
            request = request_of(Path(models), options.model, png=options.png)
            print(*asyncio.run(served_rate(address, request, options.clients, options.seconds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        models = repository(options.model, Path(folder))
        flags = ["--model", options.model, "--clients", str(options.clients), "--seconds", str(options.seconds)]
        flags += ["--png"] * options.png
        ratios = []
        with served(models) as server:
            for _ in range(options.rounds):
                best, size = in_a_process(*flags, "--measure", "alone", str(models))
                rate, wait = in_a_process(*flags, "--measure", "served", f"{models}@{server.address}")
                ratios.append(rate / best)
                print(
                    f"ONNX Runtime {best:8.1f}/s in batches of {size:.0f}; server {rate:8.1f}/s with {options.clients} "
                    f"clients, 95th percentile {wait:.0f} ms; ratio {ratios[-1]:.3f}",
                    flush=True,
                )
        print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
