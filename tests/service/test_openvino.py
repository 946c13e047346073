"""OpenVINO gives the scores of ONNX Runtime up to the precision, in every mode, and its runs can be stopped."""

import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from support.conversion import convert_into
from support.jobs import batch, last_line, make_images, rows
from support.networks import PADDED, make_network
from support.paths import ROOT
from support.pictures import noise
from support.servers import running

from fullconv import Answer, Client, Scorer
from fullconv.common.names import ModeName, PrecisionName
from service import machine
from service.engine.backend import Backend
from service.engine.cancellation import Cancellation
from service.engine.executables import Threads
from service.engine.repository import ModelRepository
from service.engine.session import Session

pytestmark = pytest.mark.openvino

DIGITS = ROOT / "models"
FP32, BF16 = Backend("openvino", "fp32"), Backend("openvino", "bf16")
TOLERANCES = {"fp32": 1e-5, "bf16": 0.03}
"""Largest difference of a score, relative to the largest score."""


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep choices in a directory of the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with a padded network."""
    folder = tmp_path_factory.mktemp("networks")
    return convert_into(folder / "models", make_network(folder, PADDED))


def computes_bf16() -> bool:
    """Return whether this processor has instructions for bfloat16."""
    from service.engine.openvino_runtime import computes_bf16  # noqa: PLC0415 (not installed when tests are collected)

    return computes_bf16()


def resident_bytes() -> int:
    """Return the bytes of physical memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def assert_close(got: Answer, expected: Answer, tolerance: float) -> None:
    """Compare two grids; the tolerance is relative to the largest score."""
    one, other = np.asarray(got.grid), np.asarray(expected.grid)
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["dense", "shared", "crops"])
def test_scores_equal_those_of_onnx_runtime(models: Path, mode: ModeName, precision: PrecisionName) -> None:
    """Every window has the score of ONNX Runtime up to rounding of the precision, in tiles of several shapes."""
    if precision == "bf16" and not computes_bf16():
        precision = "fp32"  # a processor without these instructions computes in float32
    image = noise(181, 214, 3)
    with Scorer(models, provider="cpu") as one, Scorer(models, provider="openvino", precision=precision) as other:
        expected = one.score(image, model="padded", mode=mode, stride=4, grid=True)
        got = other.score(image, model="padded", mode=mode, stride=4, grid=True)
    assert (got.mode, got.provider, got.precision) == (mode, "openvino", precision)
    scale = np.abs(np.asarray(expected.grid)).max()
    np.testing.assert_allclose(
        np.asarray(got.grid), np.asarray(expected.grid), rtol=0, atol=TOLERANCES[precision] * scale
    )


def test_runs_at_the_same_time_do_not_mix() -> None:
    """Threads that run tiles of different shapes with one session get the scores of their own tiles."""
    session = Session(ModelRepository(DIGITS).open("digits", "1"), backend=FP32, threads=Threads(2))
    tiles = [noise(70 + 8 * number, 150, 1, seed=number) for number in range(8)]
    expected = [session.score([tile]) for tile in tiles]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for one, other in zip(expected, pool.map(lambda tile: session.score([tile]), tiles), strict=True):
                np.testing.assert_array_equal(one, other)


def test_each_compiled_network_counts() -> None:
    """Two runs at the same time need the weights twice."""
    session = Session(ModelRepository(DIGITS).open("digits", "1"), backend=FP32, threads=Threads(2))
    size = session.weights_bytes
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            list(pool.map(session.score, [[noise(1000, 1000, 1)]] * 2))
    assert session.weights_bytes == 2 * size


def test_memory_does_not_grow_with_the_number_of_sizes() -> None:
    """Tiles of 200 sizes leave less than 40 MB more behind than tiles of 100 sizes."""
    session = Session(ModelRepository(DIGITS).open("digits", "1"), backend=FP32, threads=Threads(2))
    held = []
    for height, width in np.random.default_rng(0).integers(70, 270, (200, 2)):
        session.score([noise(height, width, 1)])
        held.append(resident_bytes())
    assert held[-1] - held[99] < 40e6


def test_memory_of_earlier_runs_is_released() -> None:
    """`shrink_arena` frees the activations of a large tile, and the session scores as before."""
    session = Session(ModelRepository(DIGITS).open("digits", "1"), backend=FP32, threads=Threads(2))
    tile = noise(2000, 2000, 1)
    expected = session.score([tile])
    held = resident_bytes()
    session.shrink_arena()
    machine.trim_heap()
    assert held - resident_bytes() > 50e6
    np.testing.assert_array_equal(session.score([tile]), expected)


class Begun(Cancellation):
    """Says when a run can be stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = Event()

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Set `begun` in the block."""
        with super().stopping(stop):
            self.begun.set()
            yield


def test_a_run_is_cancelled() -> None:
    """A run that another thread cancels ends with an error, and the session runs further tiles."""
    session = Session(ModelRepository(DIGITS).open("digits", "1"), backend=FP32, threads=Threads(2))
    small, cancellation = noise(70, 70, 1), Begun()
    expected = session.score([small])

    def cancel() -> None:
        assert cancellation.begun.wait(60)
        cancellation.cancel()

    thread = Thread(target=cancel)
    thread.start()
    with pytest.raises(RuntimeError, match="cancel"):
        session.score([noise(3000, 3000, 1)], cancellation)
    thread.join()
    np.testing.assert_array_equal(session.score([small]), expected)


@pytest.mark.parametrize("preprocess", ["none", "unit"])
def test_the_backend_of_every_input_type_is_measured(tmp_path: Path, preprocess: str) -> None:
    """Networks that take float32 pixels are measured on pixels of that type."""
    toml = PADDED.replace('"imagenet"', f'"{preprocess}"')
    with Scorer(convert_into(tmp_path / "models", make_network(tmp_path, toml)), provider="openvino") as scorer:
        assert scorer.score(noise(100, 120, 3), model="padded").provider == "openvino"


def test_a_model_in_fp16_says_what_computed_it(tmp_path: Path) -> None:
    """An answer that was computed in bf16 says so, also if the model's weights are in fp16."""
    network = make_network(tmp_path, PADDED)
    models = convert_into(tmp_path / "models", network, precision="fp16", min_agreement=0.0)
    if computes_bf16():
        with Scorer(models, provider="openvino", precision="bf16") as scorer:
            assert scorer.score(noise(100, 120, 3), model="padded").precision == "bf16"
    with Scorer(models, provider="openvino", precision="fp32") as scorer:
        assert scorer.score(noise(100, 120, 3), model="padded").precision == "fp16"


def test_a_server_computes_with_openvino() -> None:
    """Its answers name the provider and the precision, and are those of ONNX Runtime up to the precision."""
    image = noise(300, 400, 1)
    with Scorer(DIGITS, provider="cpu") as scorer:
        expected = scorer.score(image, model="digits", grid=True)
    with running(DIGITS, "--provider", "openvino") as server, Client(server.address) as client:
        answer = client.score(image, model="digits", grid=True)
        exact = client.score(image, model="digits", mode="exact", grid=True)
    assert answer.provider == "openvino"
    assert answer.precision == ("bf16" if computes_bf16() else "fp32")
    scale = np.abs(np.asarray(expected.grid)).max()
    np.testing.assert_allclose(
        np.asarray(answer.grid), np.asarray(expected.grid), rtol=0, atol=TOLERANCES["bf16"] * scale
    )
    if computes_bf16():
        assert not answer.parity.exact
        assert (exact.provider, exact.precision, exact.parity.exact) == ("cpu", "fp32", True)
        np.testing.assert_array_equal(exact.grid, expected.grid)


def test_a_job_computes_with_the_backend_of_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows name OpenVINO, and a run of the same job with other options is refused."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images", 3)
    assert batch("images", "--provider", "openvino").exit_code == 0
    assert {(row["provider"], row["precision"], row["exact"]) for row in rows()} == {("openvino", "fp32", True)}
    refused = batch("images")
    assert refused.exit_code == 3
    assert 'options.provider was "openvino" and is "cpu"' in last_line(refused)
