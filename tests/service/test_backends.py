"""The fastest backend is chosen whose scores agree with those of fp32, and answers say what computed them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.command_line import run, score
from support.paths import ROOT
from support.pictures import noise

from fullconv import RequestError, Scorer
from fullconv.common.names import PRECISIONS, PrecisionName, ProviderName
from fullconv.protos import model_pb2
from service import cli
from service.engine import choice, choice_cache, requested_backend
from service.engine.backend import REFERENCE, Backend
from service.engine.cancellation import Cancellation
from service.engine.choice import Load, choose
from service.engine.choice_cache import KeptChoice
from service.engine.executables import Threads
from service.engine.loader import LoadOptions
from service.engine.registry import Registry
from service.engine.repository import ModelRepository, StoredModel
from service.engine.requested_backend import MissingBackendError, RequestedBackend
from service.engine.session import Session
from service.errors import ModelError
from service.settings import read_settings
from service.settings_file import ConfigurationError

MODELS = ROOT / "models"
PAGE = MODELS / "digits" / "page.png"
BF16, OTHER_FP32 = Backend("openvino", "bf16"), Backend("openvino", "fp32")
IMAGE = noise(150, 214, 1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep choices in a directory of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backends take the time that the tests say, and a microsecond between two looks at the clock."""
    ticks = count()
    monkeypatch.setattr(choice, "time", SimpleNamespace(monotonic=lambda: Simulated.now + 1e-6 * next(ticks)))


@pytest.fixture
def digits() -> StoredModel:
    """Return the shipped model."""
    return ModelRepository(MODELS).open("digits", "1")


class Simulated(Session):
    """A session of ONNX Runtime that poses as another backend: with an error, and with its own run times."""

    error, seconds, broken = 0.0, 1, False
    """Relative error of the scores, seconds that a run takes by the clock of `choose`, and whether runs fail."""
    now = 0

    def score(
        self, tiles: Sequence[Any], cancellation: Cancellation | None = None, *, single: bool = False
    ) -> NDArray[np.float32]:
        """Score the tiles, and disturb the scores of the first class."""
        if self.broken:
            raise RuntimeError("Unsupported operation\nDetails")
        Simulated.now += self.seconds
        scores = super().score(tiles, cancellation, single=single)
        scores = scores.copy()
        scores[..., 0] += self.error * np.sqrt(scores.shape[-1] * np.mean(scores**2))
        return scores


def load_simulated(model: StoredModel, loaded: list[Backend], **properties: Any) -> Load:
    """Return a function that loads a session, with the properties for all backends but the reference."""

    def load(backend: Backend) -> Session:
        loaded.append(backend)
        session = Simulated(model)
        session.backend = backend
        if backend == REFERENCE:
            session.seconds = 8
        else:
            vars(session).update({name: value for name, value in properties.items() if name != "only"})
            if backend != properties.get("only", backend):
                session.error, session.broken = 0.0, False
        return session

    return load


def test_a_faster_backend_with_the_same_scores_is_chosen(digits: StoredModel) -> None:
    """A backend that is eight times as fast is chosen, with its difference from fp32, and the last one that loads."""
    loaded = list[Backend]()
    session = choose(digits, 0, (BF16, OTHER_FP32, REFERENCE), load_simulated(digits, loaded, error=0.004))
    assert session.backend == BF16
    assert session.difference.windows == 1024
    assert session.difference.relative_l2 == pytest.approx(0.004, rel=0.01)
    assert loaded == [REFERENCE, BF16]


def test_a_slower_backend_is_not_chosen(digits: StoredModel) -> None:
    """A backend that takes twice as long as fp32 is not chosen, and fp32 has no difference."""
    session = choose(digits, 0, (BF16, REFERENCE), load_simulated(digits, [], seconds=16))
    assert session.backend == REFERENCE
    assert not session.difference.windows


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"error": 0.5}, "its scores differ by 50.00%, more than 2.00%"),
        ({"broken": True}, "openvino bf16 cannot run it: Unsupported operation"),
    ],
    ids=["other scores", "fails"],
)
def test_a_backend_that_fails_is_not_chosen(
    digits: StoredModel, properties: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If the scores of bf16 differ too much or its runs fail, fp32 of the provider is tried; the log has the reason."""
    caplog.set_level("INFO")
    loaded = list[Backend]()
    load = load_simulated(digits, loaded, only=BF16, **properties)
    assert choose(digits, 0, (BF16, OTHER_FP32, REFERENCE), load).backend == OTHER_FP32
    assert loaded == [REFERENCE, BF16, OTHER_FP32]
    [record] = [line.record for line in caplog.records if line.message == "backend"]  # type: ignore[attr-defined]
    assert reason in record["reason"]


def test_a_requested_backend_that_fails_is_an_error(digits: StoredModel) -> None:
    """If the only backend cannot run the network, loading fails with the reason and the way out."""
    load = load_simulated(digits, [], broken=True)
    with pytest.raises(ModelError, match=r"digits/1: openvino bf16 cannot run it: Unsupported.*; use --provider cpu"):
        choose(digits, 0, (BF16,), load)


def test_a_requested_backend_is_used_with_its_difference(digits: StoredModel) -> None:
    """The only backend is used even if it differs much, and its difference is measured."""
    session = choose(digits, 0, (BF16,), load_simulated(digits, [], error=0.5))
    assert session.backend == BF16
    assert session.difference.relative_l2 == pytest.approx(0.5, rel=0.01)


def test_a_choice_is_measured_once(digits: StoredModel) -> None:
    """A second process loads the chosen backend only, and knows its difference."""
    load = load_simulated(digits, [], error=0.004)
    first = choose(digits, 0, (BF16, REFERENCE), load)
    loaded = list[Backend]()
    second = choose(digits, 0, (BF16, REFERENCE), load_simulated(digits, loaded, error=0.004))
    assert loaded == [BF16]
    assert second.difference == first.difference


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"provider": "openvino"}'], ids=["empty", "cut", "list", "no field"]
)
def test_a_damaged_choice_is_measured_again(digits: StoredModel, damage: str, tmp_path: Path) -> None:
    """A file of the cache that cannot be read counts as missing."""
    choose(digits, 0, (BF16, REFERENCE), load_simulated(digits, []))
    [file] = (tmp_path / "cache" / "fullconv" / "backends").iterdir()
    file.write_text(damage)
    loaded = list[Backend]()
    choose(digits, 0, (BF16, REFERENCE), load_simulated(digits, loaded))
    assert loaded == [REFERENCE, BF16]


def test_a_choice_that_cannot_be_kept_is_used(digits: StoredModel, tmp_path: Path) -> None:
    """If the cache cannot be written, the choice is measured each time."""
    (tmp_path / "cache").write_text("a file in the place of the directory")
    assert choose(digits, 0, (BF16, REFERENCE), load_simulated(digits, [])).backend == BF16


def test_a_choice_of_which_a_backend_failed_is_measured_again(digits: StoredModel, tmp_path: Path) -> None:
    """The reason of a failure may pass, so that the choice is not kept."""
    choose(digits, 0, (BF16, REFERENCE), load_simulated(digits, [], broken=True))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("directory", ["", "relative"], ids=["none", "relative"])
def test_without_a_cache_directory_nothing_is_kept(
    directory: str, digits: StoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without a home has no cache, and a relative directory is ignored, as the specification says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", directory)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    choose(digits, 0, (BF16, REFERENCE), load_simulated(digits, []))
    assert not list(tmp_path.iterdir())


def test_a_choice_depends_on_files_candidates_threads_and_processors(
    digits: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them has a part in the name of a kept choice."""
    names = {choice_cache.key(digits, 0, backends) for backends in [(BF16,), (BF16, REFERENCE)]}
    names.add(choice_cache.key(digits, 0, (BF16,), 2))
    for change in ("processor", "cpus"):
        monkeypatch.setattr(f"service.machine.{change}", lambda change=change: change)
        names.add(choice_cache.key(digits, 0, (BF16,)))
    assert len(names) == 5


def test_a_choice_is_kept_whole() -> None:
    """A kept choice is read as it was written."""
    kept = KeptChoice(BF16, model_pb2.Difference(windows=9, max_abs=0.25, top_class_agreement=1))
    choice_cache.write("name", kept)
    assert choice_cache.read("name") == kept


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have OpenVINO with bf16, simulated, at a relative error of 0.4 %."""
    real = Session.__init__

    def make(session: Session, *arguments: Any, backend: Backend = REFERENCE, **named: Any) -> None:
        real(session, *arguments, **named)
        session.backend = backend
        if backend != REFERENCE:
            score = session.score
            vars(session)["score"] = lambda *given: score(*given) * np.float32(1.004)

    monkeypatch.setattr(Session, "__init__", make)
    monkeypatch.setattr(requested_backend, "is_installed", lambda provider: provider in ("cpu", "openvino"))
    monkeypatch.setattr(requested_backend, "_supported", PRECISIONS.get)


@pytest.mark.usefixtures("simulated")
def test_an_answer_in_bf16_is_not_exact() -> None:
    """It names provider and precision, has the measured difference in its parity, and says so in words."""
    with Scorer(MODELS, provider="openvino", precision="bf16") as scorer:
        answer = scorer.score(IMAGE, model="digits", grid=True)
    with Scorer(MODELS, precision="fp32", provider="cpu") as scorer:
        expected = scorer.score(IMAGE, model="digits", grid=True)
    assert (answer.provider, answer.precision) == ("openvino", "bf16")
    assert (expected.provider, expected.precision) == ("cpu", "fp32")
    np.testing.assert_allclose(np.asarray(answer.grid), np.asarray(expected.grid) * 1.004, rtol=1e-5, atol=1e-6)
    assert expected.parity.exact
    assert not answer.parity.exact
    assert answer.parity.max_abs_diff > 0.004
    assert (
        "computed in bf16 by openvino: on 1024 windows of noise, scores differ from fp32 by 0.40%" in answer.mode_reason
    )
    found = answer.precision_difference
    assert found is not None
    assert (found.windows, found.top_class_agreement) == (1024, 1)
    assert found.relative_l2 == pytest.approx(0.004, rel=1e-4)
    assert answer.document()["parity"]["difference_from_fp32"] == asdict(found)
    assert expected.precision_difference is None
    assert "difference_from_fp32" not in expected.document()["parity"]


@pytest.mark.usefixtures("simulated")
def test_a_provider_that_rounds_in_fp32_is_not_exact() -> None:
    """If the named provider's scores in fp32 differ by more than rounding, the answer says so and is not exact."""
    with Scorer(MODELS, provider="openvino", precision="fp32") as scorer:
        answer = scorer.score(IMAGE, model="digits")
    assert (answer.provider, answer.precision, answer.parity.exact) == ("openvino", "fp32", False)
    assert answer.parity.max_abs_diff > 0.004
    assert "computed in fp32 by openvino: on 1024 windows of noise, scores differ from fp32 by" in answer.mode_reason


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("options", [{"mode": "exact"}, {"min_agreement": 0.9}], ids=["exact", "agreement"])
def test_scores_with_a_guarantee_are_those_of_fp32(options: dict[str, Any]) -> None:
    """A registry that chooses among precisions answers such requests in fp32 on the CPU, and only those."""
    backends = tuple(RequestedBackend().backends())
    threads = Threads()
    registry = Registry(MODELS, options=LoadOptions(threads, backends))
    served, model = registry.get("digits")
    choice_cache.write(
        choice_cache.key(model, 0, backends, threads.count), KeptChoice(BF16, model_pb2.Difference(windows=1))
    )
    with Scorer(MODELS, provider="auto", precision="auto") as scorer:
        guaranteed = scorer.score(IMAGE, model="digits", **options)
        other = scorer.score(IMAGE, model="digits")
    assert (guaranteed.precision, guaranteed.parity.exact) == ("fp32", True)
    assert (other.precision, other.parity.exact) == ("bf16", False)
    assert registry.session(served, model, 0).backend == BF16
    assert registry.session(served, model, 0, reference=True).backend == REFERENCE


@pytest.mark.usefixtures("simulated")
def test_a_least_agreement_needs_fp32() -> None:
    """The certificate's figures are those of fp32, so that a scorer in bf16 alone refuses the option."""
    with Scorer(MODELS, provider="openvino", precision="bf16") as scorer:
        with pytest.raises(RequestError, match="min_agreement: expected a model in fp32"):
            scorer.score(IMAGE, model="digits", min_agreement=0.9)
        assert not scorer.score(IMAGE, model="digits", mode="exact").parity.exact


@pytest.mark.parametrize(
    ("provider", "precision", "message"),
    [
        ("openvino", "auto", r"provider: openvino is not installed; install the extra 'openvino'"),
        ("cuda", "fp32", "provider: cuda is not installed; install onnxruntime-gpu in place of onnxruntime"),
        ("auto", "bf16", r"precision: bf16 requires --provider openvino; install the extra 'openvino'"),
        ("auto", "fp16", r"precision: fp16 requires --provider tensorrt; install onnxruntime-gpu in place of"),
        ("openvino", "fp16", "provider: openvino is not installed"),
        ("cpu", "bf16", "precision: expected fp32 with provider cpu on this machine, got bf16"),
    ],
)
def test_missing_backends_are_refused(
    provider: ProviderName, precision: PrecisionName, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that this machine lacks is refused with the way to get it."""
    monkeypatch.setattr(requested_backend, "is_installed", lambda provider: provider == "cpu")
    with pytest.raises(RequestError, match=message):
        Scorer(MODELS, provider=provider, precision=precision)


def test_a_processor_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is refused if the processor lacks its instructions, even if OpenVINO is installed."""
    monkeypatch.setattr(requested_backend, "is_installed", lambda _: True)
    monkeypatch.setattr(requested_backend, "_supported", lambda _: ("fp32",))
    with pytest.raises(MissingBackendError, match="expected fp32 with provider openvino on this machine, got bf16"):
        RequestedBackend("openvino", "bf16").backends()
    assert RequestedBackend("openvino").backends() == [OTHER_FP32]
    with pytest.raises(MissingBackendError, match="bf16 requires a processor with its instructions; leave it out"):
        RequestedBackend(precision="bf16").backends()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--provider", "cpu", "--precision", "bf16"), "expected fp32 with provider cpu, got bf16"),
        (("--provider", "openvino", "--precision", "fp16"), "expected fp32 or bf16 with provider openvino, got fp16"),
        (("--server", "127.0.0.1:1", "--precision", "bf16"), "expected no --provider, --precision and --tile-mib"),
        (("--server", "127.0.0.1:1", "--tile-mib", "9"), "expected no --provider, --precision and --tile-mib"),
        (("--tile-mib", "0"), "greater than or equal to 1"),
        (("--provider", "gpu"), "'gpu' is not one of"),
    ],
    ids=["no bf16", "no fp16", "server", "tiles of a server", "no tile", "unknown"],
)
def test_a_wrong_backend_is_a_wrong_command_line(options: tuple[str, ...], message: str) -> None:
    """Options that contradict each other are exit status 2."""
    result = run(PAGE, "--model", "digits", *options)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


def test_the_command_says_what_computed() -> None:
    """--json has the provider and the precision that were requested."""
    document = json.loads(score(PAGE, "--provider", "cpu", "--precision", "fp32", "--json").stdout)
    assert (document["provider"], document["precision"]) == ("cpu", "fp32")


def test_a_server_without_the_backend_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A precision that this processor lacks is exit status 3, with one line."""
    monkeypatch.setattr(requested_backend, "is_installed", lambda _: True)
    monkeypatch.setattr(requested_backend, "_supported", lambda _: ("fp32",))
    monkeypatch.setattr("sys.argv", ["", "--models", str(MODELS), "--provider", "openvino", "--precision", "bf16"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith("fullconv-serve: precision: expected fp32 with provider openvino")


def test_a_server_refuses_a_precision_that_its_provider_lacks() -> None:
    """The setting is refused before the server starts."""
    with pytest.raises(ConfigurationError, match="precision: expected fp32 with provider cpu, got bf16"):
        read_settings(["--models", str(MODELS), "--provider", "cpu", "--precision", "bf16"])


def test_a_cancelled_run_is_stopped_now_or_when_it_begins() -> None:
    """`cancel` stops the run that is in the block, or the one that enters it later; not one that has left it."""
    stopped = list[str]()
    cancellation = Cancellation()
    with cancellation.stopping(lambda: stopped.append("ended")):
        pass
    running, done = Event(), Event()

    def stop() -> None:
        stopped.append("running")
        done.set()

    def run_long() -> None:
        with cancellation.stopping(stop):
            running.set()
            assert done.wait(10)

    thread = Thread(target=run_long)
    thread.start()
    assert running.wait(10)
    assert not cancellation.cancelled
    cancellation.cancel()
    thread.join()
    with cancellation.stopping(lambda: stopped.append("begins")):
        pass
    assert stopped == ["running", "begins"]
