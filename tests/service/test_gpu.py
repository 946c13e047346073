"""Buffers of inputs, bound runs and the cache of TensorRT, tested on the CPU: no test runs on a GPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise

from service.engine import executables, onnx_runtime
from service.engine.backend import REFERENCE, Backend
from service.engine.cancellation import Cancellation
from service.engine.onnx_runtime import GPU_PROVIDERS, PROVIDERS, OnnxRuntimeExecutable
from service.engine.page_locked import MAX_IDLE, InputBuffers, page_locked_memory
from service.engine.repository import ModelRepository
from service.engine.run_sizes import MAX_RUN_BYTES, run_sizes
from service.engine.session import RunSizes, Session
from service.errors import ModelError

DIGITS = ROOT / "models" / "digits" / "1" / "model.onnx"
CPU, CLASSES = PROVIDERS["cpu"], 11


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> OnnxRuntimeExecutable:
    """Return a network that runs as on a GPU: its inputs are bound from buffers. The buffers are in ordinary memory."""
    monkeypatch.setitem(PROVIDERS, "cuda", CPU)
    return OnnxRuntimeExecutable(DIGITS, Backend("cuda", "fp32"), threads=1)


def feed(height: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the input of the digits network."""
    return {"image": np.roll(noise(height, width, 1), seed, axis=1)[None]}


def test_bound_runs_give_the_same_scores(bound: OnnxRuntimeExecutable) -> None:
    """Runs of changing shapes give the bytes of runs without buffers, and earlier scores stay as they were."""
    plain = OnnxRuntimeExecutable(DIGITS, REFERENCE, threads=1)
    shapes = [(70, 70), (150, 214), (70, 70), (99, 80)] * 3
    found = [bound.run(feed(*shape, seed), bound.outputs, None)[0] for seed, shape in enumerate(shapes)]
    bound.shrink(feed(70, 70), {bound.outputs[0]: (1, CLASSES, 1, 1)})
    for seed, (shape, scores) in enumerate(zip(shapes, found, strict=True)):
        np.testing.assert_array_equal(scores, plain.run(feed(*shape, seed), plain.outputs, None)[0])


def test_concurrent_bound_runs_do_not_share_buffers(bound: OnnxRuntimeExecutable) -> None:
    """Threads that run tiles of one shape at the same time get the scores of their own tiles."""
    expected = [bound.run(feed(150, 214, seed), bound.outputs, None)[0] for seed in range(4)]

    def run(seed: int) -> list[np.ndarray]:
        return [bound.run(feed(150, 214, seed), bound.outputs, None)[0] for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for scores, own in zip(pool.map(run, range(4)), expected, strict=True):
            np.testing.assert_array_equal(scores, [own] * 20)


def test_a_bound_run_can_be_cancelled(bound: OnnxRuntimeExecutable) -> None:
    """A run whose requests were cancelled raises an error, and the next run works."""
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Exception, match="terminate"):
        bound.run(feed(150, 214), bound.outputs, cancellation)
    assert bound.run(feed(70, 70), bound.outputs, None)[0].shape == (1, CLASSES, 1, 1)


def test_buffers_are_reused_and_few() -> None:
    """A buffer serves the next run of its shape; runs at the same time have their own; idle buffers are bounded."""
    buffers = InputBuffers(None)
    with buffers.filled(feed(70, 70)) as first, buffers.filled(feed(70, 70)) as second:
        places = {each["image"].data_ptr() for each in (first, second)}
    assert len(places) == 2
    with buffers.filled(feed(70, 70, 3)) as third:
        assert third["image"].data_ptr() in places
        np.testing.assert_array_equal(third["image"].numpy(), feed(70, 70, 3)["image"])
    for side in range(70, 70 + 3 * MAX_IDLE):
        with buffers.filled(feed(side, side)):
            pass
    assert len(buffers._idle) == MAX_IDLE  # noqa: SLF001 (nothing else shows it)
    buffers.clear()
    assert not buffers._idle  # noqa: SLF001


def test_a_failed_run_keeps_its_buffer() -> None:
    """A buffer is free again after a run that raised an error."""
    buffers = InputBuffers(None)
    with pytest.raises(RuntimeError), buffers.filled(feed(70, 70)):
        raise RuntimeError
    assert len(buffers._idle) == 1  # noqa: SLF001 (nothing else shows it)


def test_threads_never_get_one_buffer() -> None:
    """Of threads that take buffers at the same moment, each gets another one."""
    buffers, barrier = InputBuffers(None), Barrier(8, timeout=10)

    def use(_: int) -> int:
        barrier.wait()
        with buffers.filled(feed(70, 70)) as mine:
            barrier.wait()
            return int(mine["image"].data_ptr())

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert len({*pool.map(use, range(8))}) == 8


def test_a_second_batch_is_copied_while_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session with CUDA runs two batches at the same time, with as many windows as memory allows."""
    monkeypatch.setitem(PROVIDERS, "cuda", CPU)
    session = Session(ModelRepository(ROOT / "models").open("digits", "1"), backend=Backend("cuda", "fp32"))
    assert run_sizes(session, 1) == RunSizes(32 * 70 * 70, 2)
    session.bytes_per_pixel = MAX_RUN_BYTES / (3 * 70 * 70)
    assert run_sizes(session, 1) == RunSizes(3 * 70 * 70, 2)


def test_page_locked_memory_is_optional() -> None:
    """Without CUDA there is no page-locked memory, and no error."""
    assert page_locked_memory() is None


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("provider", sorted(GPU_PROVIDERS))
def test_a_missing_gpu_is_an_error(provider: str) -> None:
    """A provider that cannot be loaded is never replaced by the CPU."""
    model = ModelRepository(ROOT / "models").open("digits", "1")
    with pytest.raises(ModelError, match=r"digits/1/model.onnx: ONNX Runtime cannot run it with .*; install"):
        Session(model, backend=Backend(provider))  # type: ignore[arg-type]


def test_engines_are_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT gets a directory that exists; without a name, or if there can be no directory, it keeps nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = onnx_runtime._engine_cache_options("name")  # noqa: SLF001 (no GPU calls it)
    paths = {kept[f"trt_{cache}_cache_path"] for cache in ("engine", "timing")}
    assert paths == {str(tmp_path / "fullconv" / "tensorrt" / "name")}
    assert Path(*paths).is_dir()
    assert not onnx_runtime._engine_cache_options("")  # noqa: SLF001
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    assert not onnx_runtime._engine_cache_options("name")  # noqa: SLF001


def test_engines_depend_on_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models with the same graph and other weights keep their engines under different names."""
    names = list[str]()

    class Executable(OnnxRuntimeExecutable):
        def __init__(self, file: Path, _: Backend, *, threads: int, engines: str = "") -> None:
            names.append(engines)
            super().__init__(file, REFERENCE, threads=threads)

    monkeypatch.setattr(executables, "OnnxRuntimeExecutable", Executable)
    model = ModelRepository(ROOT / "models").open("digits", "1")
    for digest, provider in (("a", "tensorrt"), ("b", "tensorrt"), ("b", "cpu")):
        model.spec.weights_sha256 = digest
        Session(model, backend=Backend(provider))  # type: ignore[arg-type]
    assert len({*names}) == 3
    assert names[-1] == ""
