"""Measures memory and time for images of 1 to 1074 megapixels, without and with a server.

python benchmarks/gigapixel.py [--folder DIR] [--sides 1024,2048,4096,8192,16384,32768]

Writes copies of the shipped page, side by side, into tiled pyramidal TIFF files, which are kept in the folder. The
digits model scores each file at its native stride and writes the whole grid: once in a new process, and once
through a new server. Small images are scored several times. The memory is the peak beyond that of the process after
it has scored one window. The seconds are the median of the runs; the table also gives the seconds per megapixel
relative to those of 2048×2048 pixels.
"""

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyvips

from fullconv import Client, Scorer
from fullconv.common.probabilities import RAW
from fullconv.grids.cells import CellValues
from fullconv.grids.npz import npz_file

DIGITS = Path(__file__).parents[1] / "models" / "digits"
PIXELS_A_RUN = 1 << 26
"""Pixels that are scored at each size: smaller images are scored several times."""


@dataclass(frozen=True)
class Figures:
    """Seconds and memory of one image."""

    seconds: float
    above_idle: float
    """Peak memory beyond that of the idle process, in megabytes."""


def page_of(side: int, folder: Path) -> Path:
    """Write a square image of `side` pixels as a tiled pyramidal TIFF file, unless it exists; returns its path."""
    path = folder / f"page-{side}.tif"
    if not path.exists():
        page = pyvips.Image.new_from_file(str(DIGITS / "page.png"))
        whole = page.replicate(-(-side // page.width), -(-side // page.height)).crop(0, 0, side, side)
        partial = path.with_suffix(".partial")
        whole.tiffsave(str(partial), tile=True, tile_width=256, tile_height=256, pyramid=True, compression="deflate",
                       bigtiff=True)  # fmt: skip
        partial.rename(path)
    return path


def score(scorer: Scorer | Client, image: Path, grid: Path) -> None:
    """Score an image and write its grid as the rows come; a server gets the file in parts."""
    with scorer.score_large(image, model="digits", grid=True) as stream:
        header = stream.planned.header
        with npz_file(grid, CellValues(header, RAW, header.indices)) as write:
            for rows in stream.rows():
                write(rows)
        stream.result()


def memory(process: int | str, field: str) -> float:
    """Return a process's resident memory in megabytes, current ("VmRSS") or peak ("VmHWM")."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1e3


def measured(run: Callable[[], None], times: int, process: int | str = "self") -> Figures:
    """Return the median seconds of some runs, and the peak memory of a process beyond that before the runs."""
    idle, seconds = memory(process, "VmRSS"), []
    Path(f"/proc/{process}/clear_refs").write_text("5", "ascii")
    for _ in range(times):
        before = time.monotonic()
        run()
        seconds.append(time.monotonic() - before)
    return Figures(statistics.median(seconds), memory(process, "VmHWM") - idle)


def measure_process(image: Path, window: Path, grid: Path, times: int) -> Figures:
    """Measure an image that this process scores."""
    scorer = Scorer(DIGITS.parent)
    score(scorer, window, grid)
    return measured(lambda: score(scorer, image, grid), times)


@contextmanager
def server() -> Iterator[tuple[int, str]]:
    """Run a server of the shipped models for the block; yields its process id and its address."""
    command = [sys.executable, "-m", "service", "--models", str(DIGITS.parent), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=DIGITS.parents[1]) as process:  # noqa: S603 (this repository's command)
        try:
            assert process.stderr is not None  # noqa: S101 (a pipe)
            yield process.pid, process.stderr.readline().split('"address": "')[1].split('"')[0]
        finally:
            process.terminate()


def measure_server(image: Path, window: Path, grid: Path, times: int) -> Figures:
    """Measure an image that a server scores, sent in parts; the memory is the server's."""
    with server() as (process, address), Client(address) as client:
        score(client, window, grid)
        return measured(lambda: score(client, image, grid), times, process)


def table(sides: list[int], folder: Path) -> Iterator[str]:
    """Measure each size in new processes; yields the lines of the table."""
    yield "megapixels  in this process: s   s/MP  of 2048²     MB  through a server: s   s/MP  of 2048²     MB"
    window, reference = page_of(128, folder), dict[int, float]()
    for side in sorted(sides, key=lambda side: side != 2048):
        megapixels, columns = side * side / 1e6, []
        times = max(1, PIXELS_A_RUN // side**2)
        for place, work in enumerate((measure_process, measure_server)):
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                figures = pool.submit(work, page_of(side, folder), window, folder / "grid.npz", times).result()
            each = figures.seconds / megapixels
            reference.setdefault(place, each)
            columns.append(
                f"{figures.seconds:16.2f} {each:6.4f} {each / reference[place]:8.2f} {figures.above_idle:6.0f}"
            )
        yield f"{megapixels:10.1f}  {'     '.join(columns)}"


def main() -> None:
    """Write the images, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder where the images are kept (default: a temporary folder)")
    parser.add_argument(
        "--sides",
        default="1024,2048,4096,8192,16384,32768",
        help="sides of the images in pixels; 2048 must be among them",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for line in table([int(side) for side in arguments.sides.split(",")], folder):
            print(line, flush=True)


if __name__ == "__main__":
    main()
