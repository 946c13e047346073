"""Measures the conversion of a large checkpoint: seconds, and peak memory as a multiple of the checkpoint's size.

    python benchmarks/conversion.py --arch vgg16

Writes a checkpoint of the architecture with random weights, and converts it with the command in a process of its own,
into a temporary folder. The peak memory is the process's largest resident set, mapped files included.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_networks import random_checkpoint

from converter.sources.architecture import load_architecture

COMMAND = [sys.executable, "-c", "from converter.cli import main; main()"]


def main() -> None:
    """Write a checkpoint, convert it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch", default="vgg16", help="a shipped architecture without batch normalisation (default: vgg16)"
    )
    parser.add_argument(
        "--strides", help="strides to write files for, as fullconv-convert takes them (default: the native one only)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, target = Path(folder) / "net.safetensors", Path(folder) / "net" / "1"
        random_checkpoint(load_architecture(options.arch), checkpoint)
        size = checkpoint.stat().st_size
        more = ["--strides", options.strides] if options.strides else []
        before = time.monotonic()
        subprocess.run([*COMMAND, str(checkpoint), "-o", str(target), *more], check=True)  # noqa: S603 (this repository's command)
        seconds = time.monotonic() - before
        written = sum(path.stat().st_size for path in target.iterdir())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(
        f"{options.arch}: converted {size / 1e6:.0f} MB in {seconds:.1f} s with {peak / 1e9:.2f} GB of memory, "
        f"{peak / size:.1f} times the checkpoint"
    )
    print(f"size of the written files: {written / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
