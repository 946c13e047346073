"""Measures in how many threads networks compute fastest: one for each CPU, or one for each physical core.

The CPUs of one core, which simultaneous multithreading provides, share its arithmetic units. Whether a second thread of
a core makes networks faster or slower depends on the processor.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from service import machine
from service.engine import measurement_cache
from service.engine.backend import REFERENCE
from service.engine.onnx_runtime import OnnxRuntimeExecutable
from service.engine.timing import alternating_times

KIND = "threads"
"""Name of the kind of these measurements in the cache."""
CONVOLUTIONS = Path(__file__).with_name("convolutions.onnx")
"""The network that is measured; benchmarks/make_convolutions.py makes it."""
INPUT_SHAPE = (1, 128, 128, 128)
"""Shape of its input: samples, channels, rows, columns."""
MIN_USE = 0.75
"""Least share of the threads' time in which they had a CPU: if it is smaller, other programs disturbed the measurement.
Threads that wait for the others at the end of a layer lower it too."""
MIN_GAIN = 1.05
"""Smallest speed-up by a thread for each CPU for which it is chosen; below, the other CPUs are left to other work of
the process."""


def thread_count() -> int:
    """Return the number of threads in which networks compute fastest.

    The first time on a machine whose cores have several CPUs this is measured, which takes about a second. If other
    programs disturb the measurement, the result is one thread for each CPU, and the next start measures again.
    """
    cores, cpus = machine.cores(), machine.cpus()
    if cores == cpus:
        return cpus
    key = measurement_cache.machine_key(cores)
    kept = measurement_cache.read(KIND, key)
    if isinstance(kept, dict) and kept.get("threads") in (cores, cpus):
        return int(kept["threads"])
    times, use = _measured((cores, cpus))
    is_disturbed = use < MIN_USE
    threads = cpus if is_disturbed or MIN_GAIN * min(times[cpus]) <= min(times[cores]) else cores
    if not is_disturbed:
        measurement_cache.write(KIND, key, {"threads": threads})
    return threads


def _measured(counts: Sequence[int]) -> tuple[dict[int, list[float]], float]:
    """Return the times in seconds of each number of threads, and the share of their time in which they had a CPU."""
    image = np.full(INPUT_SHAPE, 0.5, np.float32)
    loaded = {count: OnnxRuntimeExecutable(CONVOLUTIONS, REFERENCE, threads=count) for count in counts}
    runs = {count: partial(each.run, {"map0": image}, each.outputs, None) for count, each in loaded.items()}
    for run in runs.values():
        run()  # allocates memory
    started = time.process_time()
    times = alternating_times(runs)
    had = time.process_time() - started
    return times, had / sum(count * sum(times[count]) for count in counts)
