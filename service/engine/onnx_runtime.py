"""Runs networks with ONNX Runtime: on the CPU, on NVIDIA's GPUs with CUDA, or with TensorRT."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fullconv.common.optimisers import LOSSY_OPTIMISERS
from service.engine.backend import Backend
from service.engine.cache_directory import cache_directory
from service.engine.cancellation import Cancellation
from service.engine.executable import Feed
from service.engine.page_locked import InputBuffers, page_locked_memory

PROVIDERS: dict[str, tuple[str, dict[str, str], str]] = {
    "cpu": ("CPUExecutionProvider", {}, "cpu:0"),
    # float32 products without TF32, as on the CPU; no search for the best convolution at every new tile shape
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}, "gpu:0"),
    "tensorrt": ("TensorrtExecutionProvider", {}, "gpu:0"),
}
"""ONNX Runtime's name of each provider, the provider's options, and its memory arena."""
GPU_PROVIDERS = {"cuda", "tensorrt"}
"""The providers that run on a GPU."""
TENSORRT_PRECISIONS = {"fp32": {}, "bf16": {"trt_bf16_enable": "1"}, "fp16": {"trt_fp16_enable": "1"}}
"""TensorRT's options for each precision."""
SPIN = ("session.intra_op.spin_duration_us", "30")
"""How long a thread that has no work checks for more before it sleeps, in microseconds: long enough for the next layer,
for which a thread that sleeps comes late, and no longer, because others need the processor. ONNX Runtime's default is
longer, and threads that all sessions of a process share have no such setting."""
FATAL = 4
"""ONNX Runtime's log level for fatal errors alone."""


def silence() -> None:
    """Let ONNX Runtime write no lines of its own to the log of this process, which has other lines."""
    ort.set_default_logger_severity(FATAL)


class OnnxRuntimeExecutable:
    """An ONNX file in a session of ONNX Runtime; an `Executable`."""

    def __init__(self, file: Path, backend: Backend, *, threads: int, engines: str = "") -> None:
        """Load a file; raises an error of ONNX Runtime, or ImportError if the provider's libraries are missing.

        `threads` is the number of threads of this session, which have the priority of the calling thread. `engines` is
        the name under which TensorRT keeps its engines, which depends on the weights. Default: they are not kept.
        """
        name, settings, self._arena = PROVIDERS[backend.provider]
        if backend.provider == "tensorrt":
            settings = settings | TENSORRT_PRECISIONS[backend.precision] | _engine_cache_options(engines)
        providers = [(name, settings)]
        if backend.provider == "tensorrt":  # runs the nodes that TensorRT does not have
            providers.append(PROVIDERS["cuda"][:2])
        self._session = ort.InferenceSession(
            file,
            _options(threads, on_gpu=backend.provider in GPU_PROVIDERS),
            providers=providers,
            disabled_optimizers=[*LOSSY_OPTIMISERS],
            enable_fallback=0,  # or it would print its error, and continue on the CPU with other options
        )
        if self._session.get_providers()[0] != name:  # ONNX Runtime leaves a provider out that it cannot load
            raise ImportError(f"ONNX Runtime cannot run it with {name}; install the libraries of {name}")
        self.outputs = [output.name for output in self._session.get_outputs()]
        batch = self._session.get_inputs()[0].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None
        self._buffers = InputBuffers(page_locked_memory()) if backend.provider in GPU_PROVIDERS else None

    copies = 1

    def run(self, feed: Feed, outputs: list[str], cancellation: Cancellation | None) -> list[NDArray[np.float32]]:
        """Return the values of `outputs`."""
        run = ort.RunOptions()

        def stop() -> None:
            run.terminate = True

        with (cancellation or Cancellation()).stopping(stop):
            if self._buffers is not None:
                return self._run_bound(self._buffers, feed, outputs, run)
            values: list[NDArray[np.float32]] = self._session.run(outputs, feed, run)
        return values

    def _run_bound(
        self, buffers: InputBuffers, feed: Feed, outputs: list[str], run: ort.RunOptions
    ) -> list[NDArray[np.float32]]:
        """Run with the inputs in buffers."""
        binding = self._session.io_binding()
        with buffers.filled(feed) as inputs:
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in outputs:
                binding.bind_output(name)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding, run)
            binding.synchronize_outputs()
            values: list[NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        return values

    def shrink(self, feed: Feed, outputs: Mapping[str, tuple[int, ...]]) -> None:
        """Shrink the arena, which ONNX Runtime does at the end of a run. Runs at the same time keep their memory."""
        if self._buffers is not None:
            self._buffers.clear()
        run = ort.RunOptions()
        run.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._arena)
        # an output inside the arena would keep a part of it
        values = {name: np.empty(shape, np.float32) for name, shape in outputs.items()}
        binding = self._session.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for name, array in values.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding, run)


def has_provider(provider: str) -> bool:
    """Return whether the installed ONNX Runtime has a provider."""
    return PROVIDERS[provider][0] in ort.get_available_providers()


def _engine_cache_options(engines: str) -> dict[str, str]:
    """Return TensorRT's options that keep engines and measurements for the next start: they take minutes to make.

    ONNX Runtime names an engine by its graph alone. Networks with other weights therefore need another directory.
    """
    directory = cache_directory()
    if directory is None or not engines:
        return {}
    path = directory / "tensorrt" / engines
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:  # such as a read-only directory
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(path),
    }


def _options(threads: int, *, on_gpu: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry(*SPIN)
    if on_gpu:  # weights inside the arena would keep its regions, so that it could not shrink
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return options
