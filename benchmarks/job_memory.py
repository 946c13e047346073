"""Measures the memory of a job over many small images, with one image of a gigapixel in the middle.

    python benchmarks/job_memory.py [--count 20000] [--side 32768]

Prints the resident memory of the process after each part, and its growth after the first 1,000 images. The large image
is a tiled TIFF file, which is read strip by strip; --side 0 leaves it out. No image is scored twice.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyvips

MODELS = Path(__file__).resolve().parents[1] / "models"
FIRST = 1000
"""Images after which memory is expected to stay the same."""


def make_images(folder: Path, count: int, side: int) -> None:
    """Write small images, and the large image, whose name lies in the middle of theirs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = rng.integers(70, 130, 2)
        pixels = rng.integers(0, 256, (height, width, 1), np.uint8)
        pyvips.Image.new_from_array(pixels).write_to_file(str(folder / f"{number:06d}.jpg"))
    if side:
        coarse = pyvips.Image.new_from_array(rng.integers(0, 256, (side // 64, side // 64, 1), np.uint8))
        large = coarse.resize(64, kernel="linear").cast("uchar")
        large.tiffsave(str(folder / f"{count // 2:06d}x.tif"), tile=True, compression="deflate", bigtiff=True)


def resident(process: int) -> tuple[int, int]:
    """Return the megabytes of memory that a process has now, and the most that it has had."""
    lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) // 1000 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return values["VmRSS"], values["VmHWM"]


def main() -> None:
    """Run a job, and print its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="number of small images (default: 20000)")
    parser.add_argument("--side", type=int, default=32_768, help="pixels of the large image's side (default: 32768)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        images.mkdir()
        make_images(images, options.count, options.side)
        command = [sys.executable, "-c", "from service.batch.cli import main; main()", str(images), "--json"]
        command += ["--models", str(MODELS), "--model", "digits", "-o", f"{name}/out"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:  # noqa: S603 (this program)
            assert job.stderr is not None  # noqa: S101 (it is a pipe)
            done, seen = 0, dict[int, tuple[int, int]]()
            for line in job.stderr:
                event = json.loads(line) if line.startswith("{") else {}
                if event.get("event") == "part":
                    done += event["images"]
                    seen[done] = resident(job.pid)
                    print(f"{done} images: {seen[done][0]} MB, at most {seen[done][1]} MB", flush=True)
    first = next(now for images_done, (now, _) in seen.items() if images_done >= FIRST)
    last, most = seen[max(seen)]
    print(f"from {FIRST} images on: {first} to {last} MB, ratio {last / first:.3f}; at most {most} MB")


if __name__ == "__main__":
    main()
