"""The models of a server as they come, change and go."""

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.conversion import convert_into
from support.networks import UNPADDED, make_network
from support.paths import ROOT
from support.pictures import noise
from support.servers import Server, running

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
    """A repository of the shipped model, twice."""
    for version in ("1", "2"):
        shutil.copytree(DIGITS, tmp_path / "models" / "digits" / version)
    return tmp_path / "models"


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a while."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ask(address: str, method: str, request: object, kind: type) -> object:
    """One call of the Open Inference Protocol."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}", type(request).SerializeToString, kind.FromString
        )
        return call(request, timeout=30)


def damage(folder: Path) -> None:
    """Change the weights, so that their hash is another one."""
    weights = bytearray((folder / "weights.data").read_bytes())
    weights[100] ^= 1
    (folder / "weights.data").write_bytes(weights)


@pytest.mark.parametrize("kind", ["weights", "labels", "graph"])
def test_damaged_versions_leave_those_before_serving(models: Path, kind: str) -> None:
    """The highest version that loads answers for no version; who asks for the damaged one is told why."""
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
    """It is refused with the reason of the highest."""
    for version in ("1", "2"):
        damage(models / "digits" / version)
    with pytest.raises(ModelError, match=r"digits/2/weights\.data: expected sha256"):
        Registry(models).get("digits")


def test_versions_come_and_go(models: Path) -> None:
    """New versions are found, removed ones are not there any longer; what was taken of them goes on."""
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
    assert np.isfinite(session.dense([noise(80, 80, 1)])).all()
    shutil.rmtree(models / "digits")
    registry.refresh(at_once=True)
    with pytest.raises(NotFoundError, match="there: none"):
        registry.get("digits")


def test_changed_files_are_taken_if_they_are_right(models: Path, tmp_path: Path) -> None:
    """A folder that changes into another model is that one; one that is damaged goes on as it was."""
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
    """A version is looked at when its files have been as they are for a while: half of one is no failure."""
    told: list[tuple[str, str, str, str]] = []
    registry = Registry(models, warm=True, report=lambda *one: told.append(one))
    monkeypatch.setattr(repository, "SETTLED_NS", 1 << 60)
    (models / "digits" / "3").mkdir()
    shutil.copy2(DIGITS / "model.onnx", models / "digits" / "3")
    registry.refresh()
    monkeypatch.setattr(repository, "SETTLED_NS", 0)
    registry.refresh()
    assert not told
    monkeypatch.setattr(repository, "SETTLED_NS", 1 << 60)
    shutil.copytree(DIGITS, models / "digits" / "3", dirs_exist_ok=True)
    registry.refresh()
    assert ("digits", "3") not in registry.models()
    monkeypatch.setattr(repository, "SETTLED_NS", 0)
    registry.refresh()
    assert told == [("loaded", "digits", "3", "")]
    assert registry.get("digits")[1].version == "3"


def test_no_session_is_made_of_files_that_were_not_checked(models: Path) -> None:
    """A folder that was damaged goes on as long as it is in memory; when it is not, the version before it answers."""
    told: list[tuple[str, str, str, str]] = []
    registry = Registry(models, weights_bytes=1, warm=True, report=lambda *one: told.append(one))
    served, model = registry.get("digits")
    session = registry.session(served, model, 0)
    damage(models / "digits" / "2")
    with pytest.raises(ModelError, match="digits/2/weights"):
        registry.load("digits")
    assert [one[:3] for one in told[-2:]] == [("not loaded", "digits", "2"), ("kept", "digits", "2")]
    assert registry.get("digits")[1] is model
    assert registry.session(served, model, 0) is session
    registry.session(*registry.get("digits", "1"), 0)
    with pytest.raises(ModelError, match="digits/2: its files have changed"):
        registry.session(served, model, 0)
    assert registry.get("digits")[1].version == "1"
    assert not registry.state("digits", "2")[0]
    assert told[-1][:3] == ("not loaded", "digits", "2")
    shutil.copytree(DIGITS, models / "digits" / "2", dirs_exist_ok=True)
    registry.load("digits")
    assert registry.get("digits")[1].version == "2"


def test_files_that_are_as_they_were_can_be_loaded_again(models: Path, tmp_path: Path) -> None:
    """Whoever may read them, and whatever else they are called."""
    registry = Registry(models, weights_bytes=1, warm=True)
    for file in (models / "digits" / "2").iterdir():
        file.chmod(0o640)
        (tmp_path / file.name).hardlink_to(file)
    (models / "digits" / "2" / "notes").write_text("mine")
    for version in ("2", "1", "2"):
        registry.session(*registry.get("digits", version), 0)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, of: str) -> Iterator[None]:
    """Have a disk fail, as long as the block, where a function is called with a path that ends so."""
    real = getattr(owner, name)

    def call(path: Any, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 (whatever it takes)
        if str(getattr(path, "name", path)).endswith(of):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *rest, **named)

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, call)
        yield


def test_what_cannot_be_read_is_tried_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a while: said once each time, and served when it is over, although no file has changed."""
    told: list[str] = []
    registry = Registry(models, warm=True, report=lambda event, _name, version, _error: told.append(event + version))
    with failing(monkeypatch, hashlib, "file_digest", "weights.data"):
        registry.check("digits", "2")
        for _ in range(3):
            registry.refresh(at_once=True)
        with pytest.raises(ModelError, match=r"digits/2/weights\.data: cannot be read: Input/output error"):
            registry.get("digits", "2")
        with pytest.raises(NotFoundError, match=r"version: no '9' of model 'digits'; there: 1$"):
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
    assert told == ["not loaded2", "loaded2", *["not loaded2", "kept2", "loaded2"] * 2]


@pytest.mark.parametrize("of", ["digits", "2", "model.onnx"])
def test_what_cannot_be_looked_at_goes_on(models: Path, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is out of reach for a while takes no version away, and keeps no other from coming."""
    shutil.copytree(DIGITS, models / "other" / "1")
    registry = Registry(models, warm=True)
    registry.get("digits")
    with failing(monkeypatch, Path, "stat" if of == "model.onnx" else "iterdir", of):
        shutil.copytree(DIGITS, models / "new" / "1")
        registry.refresh(at_once=True)
        assert registry.get("digits")[1].version == "2"
        assert not registry.misnamed()
        assert ("new", "1") in registry.models() or of == "model.onnx"
    registry.refresh(at_once=True)
    assert registry.get("digits")[1].version == "2"


def test_a_name_that_cannot_be_looked_for_is_not_found(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is unknown, although the disk fails."""
    registry = Registry(models)
    absent = pytest.raises(NotFoundError, match="no 'absent'; there: digits")
    with failing(monkeypatch, Path, "is_dir", "absent"), absent:
        registry.get("absent")


def test_a_session_that_cannot_be_made_now_is_made_later(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a version whose session was forgotten are out of reach: those before it serve meanwhile."""
    registry = Registry(models, weights_bytes=1, warm=True)
    served, model = registry.get("digits")
    registry.session(*registry.get("digits", "1"), 0)
    with failing(monkeypatch, Path, "iterdir", "2"):
        with pytest.raises(ModelError, match="digits/2: its files cannot be looked at: Input/output error"):
            registry.session(served, model, 0)
        assert registry.get("digits")[1].version == "1"
    registry.refresh(at_once=True)
    registry.session(*registry.get("digits", "2"), 0)


def test_sessions_are_forgotten_under_a_budget(models: Path) -> None:
    """No more weights than the budget are in memory; what was forgotten is loaded again when it is asked for."""
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
    """A name that is none is not looked for, whatever it would lead to."""
    with pytest.raises(NotFoundError):
        Registry(models / "digits").get(name)
    with pytest.raises(NotFoundError):
        Registry(models).get("digits", name or "..")


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    """A server that looks often, and may be told to load and unload."""
    with running(models, "--poll", "0.2", "--admin", "127.0.0.1:0") as server:
        yield server


def test_a_server_takes_new_versions_while_it_serves(server: Server, models: Path) -> None:
    """A version that is copied in answers when it is whole and right, and every request meanwhile is answered."""
    target = models / "digits" / "3"
    with Client(server.address) as client:
        assert client.score(IMAGE, model="digits").version == "2"
        target.mkdir()
        for file in sorted(DIGITS.iterdir(), reverse=True):
            for part in (file.read_bytes()[: 1 << 15], file.read_bytes()):
                (target / file.name).write_bytes(part)
                time.sleep(0.1)
                assert client.score(IMAGE, model="digits").version in ("2", "3")
        until(lambda: client.score(IMAGE, model="digits").version == "3")
        damage(target)
        until(lambda: any(line.get("version") == "3" for line in server.events("not loaded")))
        assert client.score(IMAGE, model="digits").version == "3"
        assert [line["version"] for line in server.events("kept")] == ["3"]
        shutil.rmtree(target)
        until(lambda: client.score(IMAGE, model="digits").version == "2")
        assert [line["version"] for line in server.events("unloaded")] == ["3"]


def test_damaged_versions_are_known_before_anybody_asks(models: Path) -> None:
    """The log, the health and the list say which cannot serve, without a request for any; nothing is loaded for it."""
    shutil.copytree(models / "digits", models / "other")
    damage(models / "digits" / "2")
    for version in ("1", "2"):
        damage(models / "other" / version)
    with running(models) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        one = health_pb2.HealthCheckRequest(service="models/other")
        until(lambda: health.Check(one).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert health.Check(health_pb2.HealthCheckRequest(service="models/digits")).status == 1
        listed = scoring_pb2_grpc.ScoringStub(channel).ListModels(scoring_pb2.ListModelsRequest()).models
        wrong = {(entry.name, entry.version): entry.error for entry in listed if entry.error}
        assert list(wrong) == [("digits", "2"), ("other", "1"), ("other", "2")]
        assert all("weights.data: expected sha256" in error for error in wrong.values())
        assert [(line["model"], line["version"]) for line in server.events("not loaded")] == list(wrong)
        assert not server.events("loaded")


def test_folders_whose_names_are_none_are_told(models: Path) -> None:
    """The log names each once, and how it must be called; the others are served."""
    for name in ("my digits/1", "digits/v3", "digits/notes"):
        (models / name).mkdir(parents=True)
    for name in ("my digits/1", "digits/v3", "digits/.4.part"):
        (models / name).mkdir(exist_ok=True)
        shutil.copy(DIGITS / "model.onnx", models / name)
    with running(models, "--poll", "0.05") as server:
        shutil.copytree(DIGITS, models / "digits" / "0")
        until(lambda: len(server.events("not a model")) == 3)
        with Client(server.address) as client:
            assert client.models() == [("digits", "1"), ("digits", "2")]
    assert sorted(line["folder"] for line in server.events("not a model")) == ["digits/0", "digits/v3", "my digits/1"]


def test_a_damaged_model_that_comes_later_has_a_health(server: Server, models: Path) -> None:
    """It is NOT_SERVING, not unknown."""
    shutil.copytree(DIGITS, models / "late" / "1")
    damage(models / "late" / "1")
    with grpc.insecure_channel(server.address) as channel:
        health, one = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service="models/late")
        watched = health.Watch(one, timeout=30)
        while next(watched).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        watched.cancel()


def test_models_are_loaded_and_unloaded_on_the_admin_port(server: Server) -> None:
    """There alone; an unloaded model is not there, its health says so, and it comes back when it is loaded."""
    admin = server.log[0]["admin"]
    index = ask(admin, "RepositoryIndex", oip.RepositoryIndexRequest(), oip.RepositoryIndexResponse)
    assert [(model.name, model.version, model.state) for model in index.models] == [
        ("digits", "1", "READY"),
        ("digits", "2", "READY"),
    ]
    unload = oip.RepositoryModelUnloadRequest(model_name="digits")
    with pytest.raises(grpc.RpcError) as refused:
        ask(server.address, "RepositoryModelUnload", unload, oip.RepositoryModelUnloadResponse)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with Client(server.address) as client, grpc.insecure_channel(server.address) as channel:
        health, one = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service="models/digits")
        watched = health.Watch(one)
        assert next(watched).status == 1
        ask(admin, "RepositoryModelUnload", unload, oip.RepositoryModelUnloadResponse)
        assert next(watched).status == 2
        with pytest.raises(RequestError, match="model: 'digits' was unloaded"):
            client.score(IMAGE, model="digits")
        index = ask(admin, "RepositoryIndex", oip.RepositoryIndexRequest(), oip.RepositoryIndexResponse)
        assert [(model.name, model.state, model.reason) for model in index.models] == [
            ("digits", "UNAVAILABLE", "unloaded")
        ]
        load = oip.RepositoryModelLoadRequest(model_name="digits")
        ask(admin, "RepositoryModelLoad", load, oip.RepositoryModelLoadResponse)
        assert next(watched).status == 1
        assert client.score(IMAGE, model="digits").version == "2"
        watched.cancel()
