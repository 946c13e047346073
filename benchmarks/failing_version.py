"""Checks that a server whose newest version of a model fails its check does not accumulate memory.

    python benchmarks/failing_version.py [--requests 500]

Version 1 is the shipped model; version 2 has damaged weights, so that version 1 answers every request. Each request is
an array of 4 MiB, in which one window is scored. Prints the server's memory after a tenth of the requests and after all
requests, each time immediately and after the server has returned free memory to the system. Exits with 1 if the memory
after this return is more than 10 MiB larger after all requests than after a tenth of them.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from latency import MODELS, served
from soak import usage

from fullconv import Client
from service.server.memory import TRIM_SECONDS

SIDE, WINDOW = 2048, 70
MOST = 10 * (1 << 20) / 1e6
"""Megabytes by which the server's memory may grow."""
REST = 2 * TRIM_SECONDS + 3
"""Seconds within which an idle server returns free memory: two rounds of its memory trimmer."""


def damaged(folder: Path) -> Path:
    """Make a model repository whose version 2 is damaged; returns its folder."""
    for version in ("1", "2"):
        shutil.copytree(MODELS / "digits" / "1", folder / "digits" / version)
    weights = folder / "digits" / "2" / "weights.data"
    weights.write_bytes(weights.read_bytes()[::-1])
    return folder


def main() -> None:
    """Start the server, send the requests, and compare the server's memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500, help="number of requests (default: 500)")
    options = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    measured: list[tuple[float, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        served(damaged(Path(folder))) as server,
        Client(server.address) as client,
    ):
        for number in range(1, options.requests + 1):
            answer = client.score(pixels, model="digits", roi=(0, 0, WINDOW, WINDOW))
            if answer.version != "1":
                sys.exit(f"expected version 1 to answer, got {answer.version}")
            if number in (options.requests // 10, options.requests):
                measured.append(memory(server.process))
                print(
                    f"after {number} requests: {measured[-1][0]:.0f} MB, when idle {measured[-1][1]:.0f} MB", flush=True
                )
    grown = [after - before for before, after in zip(*measured, strict=True)]
    print(f"growth: {grown[0]:.1f} MB, when idle {grown[1]:.1f} MB")
    sys.exit(1 if grown[1] > MOST else 0)


def memory(process: int) -> tuple[float, float]:
    """Return a process's memory in MB, now and after REST seconds without requests."""
    now = usage(process)[0]
    time.sleep(REST)
    return now, usage(process)[0]


if __name__ == "__main__":
    main()
