"""What converting a large checkpoint takes: seconds, and memory as a multiple of the checkpoint's size.

    python benchmarks/conversion.py --arch vgg16

A checkpoint of the named architecture with random weights is converted by the command, in a process of its own, into a
temporary folder. Memory is the process's largest resident set, mapped files included.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dense_against_crops import random_checkpoint

from converter.sources.architecture import load_architecture

COMMAND = [sys.executable, "-c", "from converter.cli import main; main()"]


def main() -> None:
    """Make, convert, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vgg16", help="a shipped architecture without batch normalisation")
    parser.add_argument("--strides", help="as fullconv-convert takes them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, target = Path(folder) / "net.safetensors", Path(folder) / "net" / "1"
        random_checkpoint(load_architecture(options.arch), checkpoint)
        size = checkpoint.stat().st_size
        more = ["--strides", options.strides] if options.strides else []
        before = time.monotonic()
        subprocess.run([*COMMAND, str(checkpoint), "-o", str(target), *more], check=True)  # noqa: S603 (our own)
        seconds = time.monotonic() - before
        written = sum(path.stat().st_size for path in target.iterdir())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(
        f"{options.arch}: {size / 1e6:.0f} MB in {seconds:.0f} s and {peak / 1e9:.2f} GB, {peak / size:.1f} times that"
    )
    print(f"written: {written / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
