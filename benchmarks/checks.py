"""Measures what the check of a version costs in its own process: time, processor time, memory.

    python benchmarks/checks.py [--arch alexnet]

Checks the shipped model and a network of a shipped architecture with random weights. Prints for each the size of its
weights, the time to read it in this process, the time and the processor time of its check, and the smallest memory
limit, in steps of 64 MiB, within which it passes.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from random_networks import convert

from service.engine.checks import Checks
from service.engine.repository import ModelRepository
from service.errors import ModelError
from service.limits import MIB

ROOT = Path(__file__).resolve().parents[1]
SECONDS, STEP, MOST = 600.0, 64, 256
"""Time limit, the step between memory limits in MiB, and the number of steps."""


def passes(root: Path, name: str, steps: int) -> bool:
    """Return whether version 1 of a model passes its check within so many steps of memory."""
    try:
        Checks(root, seconds=SECONDS, memory_bytes=steps * STEP * MIB).check(name, "1")
    except ModelError:
        return False
    return True


def smallest(root: Path, name: str) -> int:
    """Return the smallest number of steps of memory within which a model passes its check."""
    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(root, name, middle) else (middle, high)
    return high


def measure(root: Path, name: str) -> None:
    """Print what the check of version 1 of a model costs."""
    weights = (root / name / "1" / "weights.data").stat().st_size / MIB
    start = time.monotonic()
    ModelRepository(root).open(name, "1")
    reading, start = time.monotonic() - start, time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    Checks(root, seconds=SECONDS, memory_bytes=MOST * STEP * MIB).check(name, "1")
    took, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name}: weights of {weights:.0f} MiB, read and hashed in {reading:.2f} s")
    print(f"  check: {took:.2f} s, {processor:.2f} s of the processor, within {smallest(root, name) * STEP} MiB")


def main() -> None:
    """Measure the shipped model and a large one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="alexnet", help="a shipped architecture (default: alexnet)")
    options = parser.parse_args()
    measure(ROOT / "models", "digits")
    with tempfile.TemporaryDirectory() as folder:
        convert(options.arch, Path(folder))
        measure(Path(folder), options.arch)


if __name__ == "__main__":
    main()
