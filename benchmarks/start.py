"""Measures how long programs take to start: the import of the library, the help of each command, a score, a server.

    python benchmarks/start.py [--rounds 11] [--without-vgg16]

Every line is a process that starts, works and ends, or a server until it serves. In each round, all lines run once, one
after another, so that other load affects them alike. Prints the median of the seconds, and the medians of the ratios
within a round: to an empty program of Python, to the import of numpy and ONNX Runtime, and to the import of all modules
that `fullconv-score` loads for the page. The file system's cache holds all files, also the compiled modules. VGG-16 has
random weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from latency import MODELS, repository

from fullconv import Client

EMPTY, RUNTIME, MODULES = "empty program", "import numpy, onnxruntime", "import of the modules of a score"
LOADED = """
from fullconv.common.loading import begin_loading
begin_loading()
import fullconv.command.cli, fullconv.command.inputs, fullconv.command.output_checks, fullconv.command.task
import pydantic, service.local
"""
"""Imports what `fullconv-score` imports; Typer imports pydantic when it parses a command line."""
SCORE = [str(MODELS / "digits" / "page.png"), "--model", "digits", "--models", str(MODELS), "--json"]
PROGRAMS: dict[str, list[str]] = {
    EMPTY: ["-c", "pass"],
    RUNTIME: ["-c", "import numpy, onnxruntime"],
    "import of the packages of a score": [
        "-c",
        "import numpy, onnxruntime, pyvips, typer, pydantic, google.protobuf.json_format",
    ],
    MODULES: ["-c", LOADED],
    "import fullconv": ["-c", "import fullconv"],
    "fullconv-score --help": ["-m", "fullconv", "--help"],
    "fullconv-convert --help": ["-m", "converter", "--help"],
    "fullconv-serve --help": ["-m", "service", "--help"],
    "fullconv-batch --help": ["-m", "service.batch", "--help"],
    "fullconv-score of the shipped page": ["-m", "fullconv", *SCORE],
}
"""The arguments of Python for each line of the table."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of all processes: Python keeps compiled modules, as it does by default."""


def seconds_of(arguments: list[str]) -> float:
    """Run a program to its end; returns the seconds."""
    began = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)  # noqa: S603 (listed above)
    return time.perf_counter() - began


@contextmanager
def started(models: Path) -> Iterator[tuple[str, float]]:
    """Start a server; yields its address, and when it was started, in seconds of `time.perf_counter`."""
    command = [sys.executable, "-m", "service", "--models", str(models), "--listen", "127.0.0.1:0"]
    began = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 (this repository's server)
        [*command, "--metrics", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as server:
        try:
            yield json.loads(server.stderr.readline() if server.stderr else "")["address"], began
        finally:
            server.kill()


def seconds_to_serve(models: Path, model: str) -> tuple[float, float]:
    """Start a server; returns the seconds until its health is SERVING, and until it has scored a window of a model."""
    with started(models) as (address, began), grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        serving = time.perf_counter() - began
        assert health.status == health_pb2.HealthCheckResponse.SERVING  # noqa: S101 (the log says that it listens)
        with Client(address) as client:
            described = client.model(model)
            shape = (*described.window, described.input.channels)
            client.score(np.zeros(shape, np.uint8), model=model)
        return serving, time.perf_counter() - began


def measure(models: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each line in each round. The first round, which fills caches, is left out."""
    took: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for line, arguments in PROGRAMS.items():
            took.setdefault(line, []).append(seconds_of(arguments))
        for model, folder in models.items():
            serving, scored = seconds_to_serve(folder, model)
            took.setdefault(f"fullconv-serve, {model}, to SERVING", []).append(serving)
            took.setdefault(f"fullconv-serve, {model}, to the first answer", []).append(scored)
    return {line: seconds[1:] for line, seconds in took.items()}


def report(took: dict[str, list[float]]) -> None:
    """Print the table in Markdown."""
    print("| | seconds | to an empty program | to numpy and ONNX Runtime | to the modules of a score |")
    print("|---|--:|--:|--:|--:|")
    for line, seconds in took.items():
        ratios = (
            median(one / other for one, other in zip(seconds, took[base], strict=True))
            for base in (EMPTY, RUNTIME, MODULES)
        )
        print(f"| {line} | {median(seconds):.3f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


def main() -> None:
    """Measure all lines, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="rounds that count (default: 11)")
    parser.add_argument("--without-vgg16", action="store_true", help="leave out the server with VGG-16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {"digits": MODELS}
        if not options.without_vgg16:
            models["vgg16"] = repository("vgg16", Path(folder))
        report(measure(models, options.rounds))


if __name__ == "__main__":
    main()
