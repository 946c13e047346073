"""Measures the latency of small requests and health checks while a server scores a huge image and gets large messages.

    python benchmarks/latency.py [--model digits | vgg16] [--side 32768] [--seconds 30]

Starts a server, and sends it images of the window's size and health checks, one after the other: first without other
load, then while ScoreLarge scores an image of side × side pixels, then while messages of 62 MiB arrive as well. VGG-16
has random weights. Prints the median, the 95th and 99th percentile and the maximum of each latency in milliseconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from random_networks import convert

from fullconv import Client, ScoringError
from fullconv.protos import scoring_pb2

MODELS = Path(__file__).parent.parent / "models"
MESSAGE = 62 << 20
"""Bytes of a large message."""
PAUSE = 0.02
"""Seconds between two small requests."""
NICE = 19
"""Lowest priority of a process, for the one that sends large messages."""


def repository(model: str, folder: Path) -> Path:
    """Return the folder of the shipped models, or convert VGG-16 with random weights into `folder` and return that."""
    if model == "digits":
        return MODELS
    convert(model, folder)
    return folder


@dataclass(frozen=True)
class Served:
    """A running server: its address, its process id and the file of its log."""

    address: str
    process: int
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """Return the records of its log so far. A line that is not JSON becomes the event "stray"."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) if line.startswith("{") else {"event": "stray", "text": line} for line in lines]


@contextmanager
def served(models: Path, *settings: str) -> Iterator[Served]:
    """Run a server for the block. If it ends earlier, print its exit status and the end of its log."""
    command = [sys.executable, "-m", "service", "--models", str(models), "--listen", "127.0.0.1:0", *settings]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with (
            log.open("w") as file,
            subprocess.Popen(  # noqa: S603 (this repository's server)
                [*command, "--metrics", "127.0.0.1:0"],
                stderr=file,
                env=os.environ | {"PYTHONFAULTHANDLER": "1"},
                start_new_session=True,  # Ctrl-C is for this program, which then kills the server
            ) as server,
        ):
            while "\n" not in log.read_text():
                time.sleep(0.1)
            if not log.read_text().startswith("{"):
                raise RuntimeError(f"the server did not start: {log.read_text().strip()}")
            try:
                yield Served(json.loads(log.read_text().splitlines()[0])["address"], server.pid, log)
            finally:
                if server.poll() is not None:
                    last = [line for line in log.read_text().splitlines() if '"event": "request"' not in line][-400:]
                    print(f"the server ended with {server.returncode}:", *last, sep="\n  ", flush=True)
                server.kill()


def latencies(call: Callable[[], object], seconds: float) -> list[float]:
    """Call `call` repeatedly for some seconds; returns the duration of each call in milliseconds."""
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1e3)
        time.sleep(PAUSE)
    return took


def small(address: str, model: str, window: np.ndarray, seconds: float) -> list[float]:
    """Return the latencies of small requests in milliseconds."""
    with Client(address) as client:
        return latencies(lambda: client.score(window, model=model), seconds)


def health(address: str, seconds: float) -> list[float]:
    """Return the latencies of health checks in milliseconds."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return latencies(lambda: stub.Check(health_pb2.HealthCheckRequest()), seconds)


def both(address: str, model: str, window: np.ndarray, seconds: float) -> dict[str, list[float]]:
    """Measure both at the same time, each from a process of its own, so that they do not delay each other."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        small_ones, checks = pool.submit(small, address, model, window, seconds), pool.submit(health, address, seconds)
        return {"small requests": small_ones.result(), "health": checks.result()}


@contextmanager
def scoring(address: str, model: str, side: int, channels: int) -> Iterator[None]:
    """Score a huge image for the duration of the block."""
    row = np.random.default_rng(0).integers(0, 256, (1, side, channels), np.uint8)
    tiles: list[int] = []
    with (
        Client(address) as client,
        client.score_large(
            np.broadcast_to(row, (side, side, channels)),
            model=model,
            progress=lambda what, done, _: tiles.append(done) if what == "scoring" else None,
        ) as run,
    ):

        def take() -> None:
            with suppress(ScoringError):  # the block ends before the image is finished
                run.result()

        taker = Thread(target=take)
        taker.start()
        while not tiles:
            time.sleep(0.1)
        first = tiles[-1]
        yield
        every = sum(view.tiles for view in run.planned.plan.views)
        print(f"  meanwhile {tiles[-1] - first} of {every} tiles were scored")
        run.close()
        taker.join()


def send(address: str, sent: Any) -> None:  # noqa: ANN401 (a number in shared memory)
    """Send large messages without an end; the server refuses each one after it has arrived."""
    os.nice(NICE)  # a client on another machine would use no CPU of this one
    request = scoring_pb2.ScoreRequest(model="none", image=scoring_pb2.Image(encoded=bytes(MESSAGE)))
    data = request.SerializeToString()
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        score = channel.unary_unary("/fullconv.v1.Scoring/Score")
        while True:
            with suppress(grpc.RpcError):
                score(data)
            sent.value += 1


@contextmanager
def sending(address: str) -> Iterator[None]:
    """Send large messages from a process of its own for the duration of the block."""
    spawn = get_context("spawn")
    sent = spawn.Value("i", 0)
    sender = spawn.Process(target=send, args=(address, sent), daemon=True)
    sender.start()
    while not sent.value:
        time.sleep(0.1)
    try:
        yield
    finally:
        sender.kill()
        sender.join()
        print(f"  meanwhile {sent.value} messages of {MESSAGE >> 20} MiB arrived")


def report(name: str, found: dict[str, list[float]]) -> None:
    """Print a line of the table for each kind of call."""
    for kind, took in found.items():
        median, most, nearly_all = np.percentile(took, [50, 95, 99])
        print(
            f"{name:42} {kind:15} {median:9.1f} {most:9.1f} {nearly_all:9.1f} {max(took):9.1f} {len(took):7}",
            flush=True,
        )


def main() -> None:
    """Start the server, measure the three situations, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", "vgg16"), default="digits", help="model (default: digits)")
    parser.add_argument("--side", type=int, default=32768, help="side of the huge image in pixels (default: 32768)")
    parser.add_argument("--seconds", type=float, default=30, help="seconds of each measurement (default: 30)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(repository(options.model, Path(folder))) as server:
        address = server.address
        with Client(address) as client:
            described = client.model(options.model)
            channels = described.input.channels
            shape = (*described.window, channels)
            window = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
            for _ in range(20):
                client.score(window, model=options.model)
        print(f"{'ms':58} {'median':>9} {'95 %':>9} {'99 %':>9} {'maximum':>9} {'calls':>7}")
        report("no other load", both(address, options.model, window, options.seconds))
        large = f"while {options.side}² pixels are scored"
        with scoring(address, options.model, options.side, channels):
            report(large, both(address, options.model, window, options.seconds))
            with sending(address):
                report("... and large messages arrive", both(address, options.model, window, options.seconds))


if __name__ == "__main__":
    main()
