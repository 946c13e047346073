"""Runs networks with OpenVINO on the CPU, in float32 or bfloat16.

The shapes of the inputs stay dynamic: OpenVINO prepares the kernels for a tile size when a tile of this size first
runs, which takes less time than the run itself and blocks no other run.

A compiled network with one stream runs one tile after the other, with all threads. Two streams would give each tile
half of the threads, also when it runs alone. Therefore two runs at the same time have a compiled network each, which is
made when it is first needed: a small tile then runs beside a large one. Further runs wait.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Lock

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from service.engine.backend import Backend
from service.engine.cancellation import Cancellation
from service.engine.executable import Feed
from service.engine.openvino_gather import replace_wrong_gathers

DEVICE = "CPU"
KEPT_KERNELS = 500
"""Number of layers whose kernels are kept for sizes that ran before. OpenVINO's default, 5,000, would hold hundreds of
megabytes after images of many sizes."""
MAX_NETWORKS = 2
"""Largest number of compiled networks of a file, each of which holds the weights."""
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's name of each precision."""


class OpenVinoExecutable:
    """An ONNX file that OpenVINO has compiled; an `Executable`."""

    def __init__(self, file: Path, backend: Backend, *, threads: int) -> None:
        """Compile a file; raises an error of OpenVINO."""
        options: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": HINTS[backend.precision],
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_KERNELS,
            "ENABLE_CPU_PINNING": False,  # other processes may run on the same processors
            "INFERENCE_NUM_THREADS": threads,
        }
        self._network, self._options = _core().read_model(file), options
        replace_wrong_gathers(self._network)
        self.outputs = [output.any_name for output in self._network.outputs]
        batch = self._network.inputs[0].partial_shape[0]
        self.fixed_batch = batch.get_length() if batch.is_static else None
        self._idle: LifoQueue[ov.InferRequest] = LifoQueue()
        """One request of each compiled network that does not run now."""
        self._lock, self._count = Lock(), 1
        """The lock of the number of compiled networks, and the number itself."""
        self._idle.put(self._compile())

    @property
    def copies(self) -> int:
        """Number of times that the weights are in memory: once for each compiled network."""
        return self._count

    def run(self, feed: Feed, outputs: list[str], cancellation: Cancellation | None) -> list[NDArray[np.float32]]:
        """Return the values of `outputs`."""
        request = self._take_request()
        try:
            request.start_async({name: ov.Tensor(value, shared_memory=True) for name, value in feed.items()})
            with (cancellation or Cancellation()).stopping(request.cancel):
                request.wait()
            return [request.get_tensor(name).data.copy() for name in outputs]
        finally:
            self._idle.put(request)

    def shrink(self, feed: Feed, outputs: Mapping[str, tuple[int, ...]]) -> None:  # noqa: ARG002 (of the interface)
        """Free the activations of earlier runs. Networks that run now keep theirs."""
        idle = list[ov.InferRequest]()
        with suppress(Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for request in idle:
            try:
                request.get_compiled_model().release_memory()
            finally:
                self._idle.put(request)

    def _take_request(self) -> ov.InferRequest:
        """Return a request that does not run. If all run, compile a further network, or wait for one of them."""
        with suppress(Empty):
            return self._idle.get_nowait()
        with self._lock:
            if self._count < MAX_NETWORKS:
                request = self._compile()
                self._count += 1
                return request
        return self._idle.get()

    def _compile(self) -> ov.InferRequest:
        return _core().compile_model(self._network, DEVICE, self._options).create_infer_request()


@cache
def computes_bf16() -> bool:
    """Return whether the processor has instructions for bfloat16."""
    return "BF16" in _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> ov.Core:
    return ov.Core()
