"""Inputs of a GPU in page-locked memory, which the GPU can copy by itself while another run computes.

The driver copies tiles of ordinary memory into page-locked memory first, and the thread waits for it.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime as ort

from service.engine.executable import Feed
from service.log import log

MAX_IDLE = 8
"""Largest number of buffers that are kept for later runs of the same shapes. There are few shapes of tiles."""


_LOCK = Lock()


class InputBuffers:
    """Buffers for the inputs of runs. Runs at the same time have different buffers."""

    def __init__(self, memory: ort.OrtMemoryInfo | None) -> None:
        """Allocate buffers in `memory`; None: ordinary memory."""
        self._memory = memory
        self._idle = deque[dict[str, ort.OrtValue]](maxlen=MAX_IDLE)

    @contextmanager
    def filled(self, feed: Feed) -> Iterator[dict[str, ort.OrtValue]]:
        """Yield buffers with the values of a run's inputs, by their names. They are reused after the block."""
        buffers = self._take(feed)
        try:
            for name, values in feed.items():
                buffers[name].numpy()[...] = values
            yield buffers
        finally:
            self._idle.append(buffers)

    def clear(self) -> None:
        """Free the buffers that no run uses."""
        self._idle.clear()

    def _take(self, feed: Feed) -> dict[str, ort.OrtValue]:
        """Return buffers of the right shapes that no run uses."""
        with suppress(IndexError):  # another thread has taken the last one
            for _ in range(len(self._idle)):
                buffers = self._idle.popleft()
                if all(buffers[name].shape() == [*values.shape] for name, values in feed.items()):
                    return buffers
                self._idle.append(buffers)
        return {name: _allocate([*values.shape], values.dtype, self._memory) for name, values in feed.items()}


def _allocate(shape: list[int], dtype: np.dtype[Any], memory: ort.OrtMemoryInfo | None) -> ort.OrtValue:
    if memory is None:  # older releases do not have the parameter
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype)
    return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, memory_info=memory)


def page_locked_memory() -> ort.OrtMemoryInfo | None:
    """Return the page-locked memory of the first CUDA device; None if ONNX Runtime does not offer it."""
    with _LOCK:
        return _page_locked_memory()


@cache
def _page_locked_memory() -> ort.OrtMemoryInfo | None:
    """Find the memory; the library of a provider can be registered only once."""
    library = Path(ort.__file__).with_name("capi") / "libonnxruntime_providers_cuda.so"
    try:
        ort.register_execution_provider_library("fullconv_cuda", str(library))
        [device, *_] = [each for each in ort.get_ep_devices() if each.ep_name == "CUDAExecutionProvider"]
        memory = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
        trial = _allocate([1], np.dtype(np.uint8), memory)
        return memory if trial.numpy().ctypes.data == trial.data_ptr() else None  # else numpy would have a copy
    except Exception as error:  # ONNX Runtime raises errors of many classes; ordinary memory serves as well
        log.info("no page-locked memory", extra={"record": {"error": str(error)}})
        return None
