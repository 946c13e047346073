"""Models that are added, changed and removed while the registry or a server is running."""

import errno
import hashlib
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.conversion import convert_into
from support.networks import UNPADDED, make_network
from support.paths import ROOT
from support.pictures import noise
from support.servers import Server, running, wait_until

from fullconv import Client, RequestError
from fullconv.protos import open_inference_pb2 as oip
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from service.engine import repository
from service.engine.registry import Registry
from service.errors import ModelError, NotFoundError

DIGITS = ROOT / "models" / "digits" / "1"
IMAGE = noise(80, 80, 1)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a repository with the shipped model as versions 1 and 2."""
    for version in ("1", "2"):
        shutil.copytree(DIGITS, tmp_path / "models" / "digits" / version)
    return tmp_path / "models"


def call_method(address: str, method: str, request: Message, kind: type[Message]) -> Any:  # noqa: ANN401 (an instance of `kind`)
    """Call a method of the Open Inference Protocol."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}", type(request).SerializeToString, kind.FromString
        )
        return call(request, timeout=30)


def damage(folder: Path) -> None:
    """Change the weights, so that their hash is wrong."""
    weights = bytearray((folder / "weights.data").read_bytes())
    weights[100] ^= 1
    (folder / "weights.data").write_bytes(weights)


@pytest.mark.parametrize("kind", ["weights", "labels", "graph"])
def test_damaged_versions_leave_those_before_serving(models: Path, kind: str) -> None:
    """The highest version that loads is the default; a request for the damaged version gets the error."""
    folder = models / "digits" / "2"
    match kind:
        case "weights":
            damage(folder)
        case "labels":
            (folder / "labels.txt").write_text("a\n")
        case "graph":
            (folder / "model.onnx").write_bytes(b"no model")
    registry = Registry(models, warm=True)
    assert registry.get("digits")[1].version == "1"
    with pytest.raises(ModelError, match="digits/2"):
        registry.get("digits", "2")
    assert registry.state("digits", "1") == (True, "")
    assert not registry.state("digits", "2")[0]


def test_a_model_none_of_whose_versions_load(models: Path) -> None:
    """If all versions of a model are damaged, a request gets the error of the highest version."""
    for version in ("1", "2"):
        damage(models / "digits" / version)
    with pytest.raises(ModelError, match=r"digits/2/weights\.data: expected sha256"):
        Registry(models).get("digits")


def test_versions_come_and_go(models: Path) -> None:
    """New versions are found and removed versions are dropped; a session of a dropped version still runs."""
    registry = Registry(models, warm=True)
    served, model = registry.get("digits")
    assert model.version == "2"
    session = registry.session(served, model, 0)
    shutil.copytree(DIGITS, models / "digits" / "10")
    registry.refresh(at_once=True)
    assert registry.get("digits")[1].version == "10"
    shutil.rmtree(models / "digits" / "10")
    shutil.rmtree(models / "digits" / "2")
    registry.refresh(at_once=True)
    assert registry.models() == [("digits", "1")]
    assert registry.get("digits")[1].version == "1"
    assert np.isfinite(session.score([noise(80, 80, 1)])).all()
    shutil.rmtree(models / "digits")
    registry.refresh(at_once=True)
    with pytest.raises(NotFoundError, match="available: none"):
        registry.get("digits")


def test_changed_files_are_served_if_they_are_valid(models: Path, tmp_path: Path) -> None:
    """A folder with a new model serves the new model; a folder with damaged files serves its old model."""
    registry = Registry(models, warm=True)
    before = registry.get("digits")[1]
    damage(models / "digits" / "2")
    registry.refresh(at_once=True)
    assert registry.get("digits")[1] is before
    other = convert_into(tmp_path / "other", make_network(tmp_path, UNPADDED))
    shutil.rmtree(models / "digits" / "2")
    shutil.copytree(next(Path(other).glob("*/1")), models / "digits" / "2")
    registry.refresh(at_once=True)
    assert registry.get("digits")[1].spec.window.width != before.spec.window.width


def test_files_that_are_still_being_copied_are_left_alone(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is checked only when its files have not changed for a while; a partial copy is no failure."""
    reports: list[tuple[str, str, str, str]] = []
    registry = Registry(models, warm=True, report=lambda *one: reports.append(one))
    monkeypatch.setattr(repository, "SETTLED_NS", 1 << 60)
    (models / "digits" / "3").mkdir()
    shutil.copy2(DIGITS / "model.onnx", models / "digits" / "3")
    registry.refresh()
    monkeypatch.setattr(repository, "SETTLED_NS", 0)
    registry.refresh()
    assert not reports
    monkeypatch.setattr(repository, "SETTLED_NS", 1 << 60)
    shutil.copytree(DIGITS, models / "digits" / "3", dirs_exist_ok=True)
    registry.refresh()
    assert ("digits", "3") not in registry.models()
    monkeypatch.setattr(repository, "SETTLED_NS", 0)
    registry.refresh()
    assert reports == [("loaded", "digits", "3", "")]
    assert registry.get("digits")[1].version == "3"


def test_no_session_is_made_of_files_that_were_not_checked(models: Path) -> None:
    """A version with damaged files serves while its session is in memory; afterwards a lower version serves."""
    reports: list[tuple[str, str, str, str]] = []
    registry = Registry(models, weights_bytes=1, warm=True, report=lambda *one: reports.append(one))
    served, model = registry.get("digits")
    session = registry.session(served, model, 0)
    damage(models / "digits" / "2")
    with pytest.raises(ModelError, match="digits/2/weights"):
        registry.load("digits")
    assert [one[:3] for one in reports[-2:]] == [("not loaded", "digits", "2"), ("kept", "digits", "2")]
    assert registry.get("digits")[1] is model
    assert registry.session(served, model, 0) is session
    registry.session(*registry.get("digits", "1"), 0)
    with pytest.raises(ModelError, match="digits/2: its files have changed"):
        registry.session(served, model, 0)
    assert registry.get("digits")[1].version == "1"
    assert not registry.state("digits", "2")[0]
    assert reports[-1][:3] == ("not loaded", "digits", "2")
    shutil.copytree(DIGITS, models / "digits" / "2", dirs_exist_ok=True)
    registry.load("digits")
    assert registry.get("digits")[1].version == "2"


def test_files_that_are_as_they_were_can_be_loaded_again(models: Path, tmp_path: Path) -> None:
    """Sessions are loaded again although permissions, hard links and unrelated files have changed."""
    registry = Registry(models, weights_bytes=1, warm=True)
    for file in (models / "digits" / "2").iterdir():
        file.chmod(0o640)
        (tmp_path / file.name).hardlink_to(file)
    (models / "digits" / "2" / "notes").write_text("mine")
    for version in ("2", "1", "2"):
        registry.session(*registry.get("digits", version), 0)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, of: str) -> Iterator[None]:
    """Let a function raise an I/O error during the block for paths that end with `of`."""
    real = getattr(owner, name)

    def call(path: Any, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 (the arguments of the real function)
        if str(getattr(path, "name", path)).endswith(of):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *rest, **named)

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, call)
        yield


def test_read_errors_are_retried(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read error is reported once, and the next refresh reads the files again, although no file has changed."""
    reports: list[str] = []
    registry = Registry(models, warm=True, report=lambda event, _name, version, _error: reports.append(event + version))
    with failing(monkeypatch, hashlib, "file_digest", "weights.data"):
        registry.check("digits", "2")
        for _ in range(3):
            registry.refresh(at_once=True)
        with pytest.raises(ModelError, match=r"digits/2/weights\.data: cannot be read: Input/output error"):
            registry.get("digits", "2")
        with pytest.raises(NotFoundError, match=r"version: no version '9' of model 'digits'; available: 1$"):
            registry.get("digits", "9")
    registry.refresh(at_once=True)
    for _ in range(2):
        (models / "digits" / "2" / "labels.txt").touch()
        with failing(monkeypatch, hashlib, "file_digest", "weights.data"):
            for _ in range(3):
                registry.refresh(at_once=True)
            assert registry.get("digits")[1].version == "2"
            assert registry.failing == 1
        registry.refresh(at_once=True)
        assert registry.failing == 0
    assert reports == ["not loaded2", "loaded2", *["not loaded2", "kept2", "loaded2"] * 2]


@pytest.mark.parametrize("of", ["digits", "2", "model.onnx"])
def test_inaccessible_files_change_nothing(models: Path, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or file that cannot be accessed for a while removes no version and blocks no other model."""
    shutil.copytree(DIGITS, models / "other" / "1")
    registry = Registry(models, warm=True)
    registry.get("digits")
    with failing(monkeypatch, Path, "stat" if of == "model.onnx" else "iterdir", of):
        shutil.copytree(DIGITS, models / "new" / "1")
        registry.refresh(at_once=True)
        assert registry.get("digits")[1].version == "2"
        assert not registry.invalid_names()
        assert ("new", "1") in registry.models() or of == "model.onnx"
    registry.refresh(at_once=True)
    assert registry.get("digits")[1].version == "2"


def test_an_inaccessible_name_is_not_found(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for an unknown model is not found, even if its folder cannot be accessed."""
    registry = Registry(models)
    absent = pytest.raises(NotFoundError, match="no model 'absent'; available: digits")
    with failing(monkeypatch, Path, "is_dir", "absent"), absent:
        registry.get("absent")


def test_a_session_that_fails_to_load_is_loaded_later(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a forgotten session cannot be loaded again now, a lower version serves until it can."""
    registry = Registry(models, weights_bytes=1, warm=True)
    served, model = registry.get("digits")
    registry.session(*registry.get("digits", "1"), 0)
    with failing(monkeypatch, Path, "iterdir", "2"):
        with pytest.raises(ModelError, match="digits/2: its files cannot be accessed: Input/output error"):
            registry.session(served, model, 0)
        assert registry.get("digits")[1].version == "1"
    registry.refresh(at_once=True)
    registry.session(*registry.get("digits", "2"), 0)


def test_sessions_are_forgotten_under_a_budget(models: Path) -> None:
    """Weights in memory stay within the limit, and a forgotten session is loaded again on request."""
    size = sum(file.stat().st_size for file in DIGITS.iterdir() if file.name in ("model.onnx", "weights.data"))
    registry = Registry(models, weights_bytes=int(size * 1.5))
    sessions = {}
    for version in ("1", "2"):
        served, model = registry.get("digits", version)
        sessions[version] = registry.session(served, model, 0)
        assert registry.session(served, model, 0) is sessions[version]
    served, model = registry.get("digits", "1")
    assert registry.session(served, model, 0) is not sessions["1"]


@pytest.mark.parametrize(
    "name", ["..", "../models/digits", "digits/1", "/digits", "", ".hidden", "a b", "digits\0", "%2e%2e"]
)
def test_names_cannot_leave_the_repository(models: Path, name: str) -> None:
    """An invalid name is not found, wherever its path would lead."""
    with pytest.raises(NotFoundError):
        Registry(models / "digits").get(name)
    with pytest.raises(NotFoundError):
        Registry(models).get("digits", name or "..")


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    """Yield a server that looks at the repository often, with an admin port."""
    with running(models, "--poll", "0.2", "--admin", "127.0.0.1:0") as server:
        yield server


@pytest.mark.slow
def test_a_server_takes_new_versions_while_it_serves(server: Server, models: Path) -> None:
    """A version serves once it is copied completely, and requests are answered all the time."""
    target = models / "digits" / "3"
    with Client(server.address) as client:
        assert client.score(IMAGE, model="digits").version == "2"
        target.mkdir()
        for file in sorted(DIGITS.iterdir(), reverse=True):
            for part in (file.read_bytes()[: 1 << 15], file.read_bytes()):
                (target / file.name).write_bytes(part)
                time.sleep(0.1)
                assert client.score(IMAGE, model="digits").version in ("2", "3")
        wait_until(lambda: client.score(IMAGE, model="digits").version == "3")
        damage(target)
        wait_until(lambda: any(line.get("version") == "3" for line in server.events("not loaded")))
        assert client.score(IMAGE, model="digits").version == "3"
        assert [line["version"] for line in server.events("kept")] == ["3"]
        shutil.rmtree(target)
        wait_until(lambda: client.score(IMAGE, model="digits").version == "2")
        assert [line["version"] for line in server.events("unloaded")] == ["3"]


def test_damaged_versions_are_reported_before_any_request(models: Path) -> None:
    """Log, health and list name damaged versions before any request, and no model is loaded for that."""
    shutil.copytree(models / "digits", models / "other")
    damage(models / "digits" / "2")
    for version in ("1", "2"):
        damage(models / "other" / version)
    with running(models) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        one = health_pb2.HealthCheckRequest(service="models/other")
        wait_until(lambda: health.Check(one).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert health.Check(health_pb2.HealthCheckRequest(service="models/digits")).status == 1
        listed = scoring_pb2_grpc.ScoringStub(channel).ListModels(scoring_pb2.ListModelsRequest()).models
        wrong = {(entry.name, entry.version): entry.error for entry in listed if entry.error}
        assert list(wrong) == [("digits", "2"), ("other", "1"), ("other", "2")]
        assert all("weights.data: expected sha256" in error for error in wrong.values())
        assert [(line["model"], line["version"]) for line in server.events("not loaded")] == list(wrong)
        assert not server.events("loaded")


def test_folders_with_invalid_names_are_logged(models: Path) -> None:
    """The log names each folder with an invalid name once, with the rule for names; other models serve."""
    for name in ("my digits/1", "digits/v3", "digits/notes"):
        (models / name).mkdir(parents=True)
    for name in ("my digits/1", "digits/v3", "digits/.4.part"):
        (models / name).mkdir(exist_ok=True)
        shutil.copy(DIGITS / "model.onnx", models / name)
    with running(models, "--poll", "0.05") as server:
        shutil.copytree(DIGITS, models / "digits" / "0")
        wait_until(lambda: len(server.events("not a model")) == 3)
        with Client(server.address) as client:
            assert client.models() == [("digits", "1"), ("digits", "2")]
    assert sorted(line["folder"] for line in server.events("not a model")) == ["digits/0", "digits/v3", "my digits/1"]


@pytest.mark.slow
def test_a_damaged_model_that_comes_later_has_a_health(server: Server, models: Path) -> None:
    """The health of a damaged model that is added later is NOT_SERVING, not unknown."""
    shutil.copytree(DIGITS, models / "late" / "1")
    damage(models / "late" / "1")
    with grpc.insecure_channel(server.address) as channel:
        health, one = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service="models/late")
        watched = health.Watch(one, timeout=30)
        while next(watched).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        watched.cancel()


def test_models_are_loaded_and_unloaded_on_the_admin_port(server: Server) -> None:
    """Only the admin port unloads and loads models; an unloaded model is not found until it is loaded."""
    admin = server.log[0]["admin"]
    index = call_method(admin, "RepositoryIndex", oip.RepositoryIndexRequest(), oip.RepositoryIndexResponse)
    assert [(model.name, model.version, model.state) for model in index.models] == [
        ("digits", "1", "READY"),
        ("digits", "2", "READY"),
    ]
    unload = oip.RepositoryModelUnloadRequest(model_name="digits")
    with pytest.raises(grpc.RpcError) as refused:
        call_method(server.address, "RepositoryModelUnload", unload, oip.RepositoryModelUnloadResponse)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with Client(server.address) as client, grpc.insecure_channel(server.address) as channel:
        health, one = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service="models/digits")
        watched = health.Watch(one)
        assert next(watched).status == 1
        call_method(admin, "RepositoryModelUnload", unload, oip.RepositoryModelUnloadResponse)
        assert next(watched).status == 2
        with pytest.raises(RequestError, match="model: 'digits' was unloaded"):
            client.score(IMAGE, model="digits")
        index = call_method(admin, "RepositoryIndex", oip.RepositoryIndexRequest(), oip.RepositoryIndexResponse)
        assert [(model.name, model.state, model.reason) for model in index.models] == [
            ("digits", "UNAVAILABLE", "unloaded")
        ]
        load = oip.RepositoryModelLoadRequest(model_name="digits")
        call_method(admin, "RepositoryModelLoad", load, oip.RepositoryModelLoadResponse)
        assert next(watched).status == 1
        assert client.score(IMAGE, model="digits").version == "2"
        watched.cancel()


def test_threads_share_no_message(models: Path) -> None:
    """Each thread reads the spec of a model from a message of its own, since protobuf's are not safe to share."""
    model = Registry(models).get("digits", "1")[1]
    with ThreadPoolExecutor(1) as other:
        copies = [other.submit(lambda: model.spec).result() for _ in range(2)]
    assert copies[0] is copies[1]
    assert copies[0] is not model.spec
    assert copies[0] == model.spec
