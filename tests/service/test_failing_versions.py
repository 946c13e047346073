"""A model whose highest versions fail, so that a lower version answers."""

import gc
import shutil
import weakref
from pathlib import Path

import onnx
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.scoring import plan_message

from fullconv.encode import image_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2
from service.engine.registry import Registry
from service.errors import ModelError
from service.images.picture import Picture
from service.scoring.scorer import Scorer

DIGITS = ROOT / "models" / "digits" / "1"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a repository of the shipped model as versions 1, 2 and 3, of which 2 and 3 are damaged."""
    folder = tmp_path / "models" / "digits"
    for version in ("1", "2", "3"):
        shutil.copytree(DIGITS, folder / version)
    for version in ("2", "3"):
        (folder / version / "labels.txt").write_text("a\n")
    return tmp_path / "models"


class Tracked:
    """An object in the frame of a request that a weak reference can watch."""


def test_answered_requests_are_released(models: Path) -> None:
    """The registry keeps no object of its callers alive, even without the garbage collector."""
    registry = Registry(models, warm=True)

    def request_model(version: str) -> weakref.ref[Tracked]:
        tracked = Tracked()
        if version:
            with pytest.raises(ModelError, match=f"digits/{version}/labels"):
                registry.get("digits", version)
        else:
            assert registry.get("digits")[1].version == "1"
        return weakref.ref(tracked)

    gc.disable()
    try:
        kept = [request_model(version) for _ in range(3) for version in ("", "2", "3")]
        assert [tracked() for tracked in kept] == [None] * 9
    finally:
        gc.enable()


def test_pixels_of_answered_requests_are_released(models: Path) -> None:
    """The scorer keeps no answered request or its image alive, even though the higher version fails each time."""
    scorer = Scorer(Registry(models, warm=True))

    def request_model() -> weakref.ref[Picture]:
        run = plan_message(
            scorer, scoring_pb2.ScoreRequest(model="digits", image=image_message(source_of(noise(80, 80, 1))))
        )
        assert run.complete().version == "1"
        return weakref.ref(run.planned.picture)

    kept = [request_model() for _ in range(3)]
    gc.collect()
    assert [run() for run in kept] == [None] * 3


def test_every_caller_gets_an_error_of_its_own(models: Path) -> None:
    """Each caller gets a new error of the same class and text; one object would collect the callers' frames."""
    registry = Registry(models, warm=True)
    errors = []
    for _ in range(3):
        with pytest.raises(ModelError, match=r"digits/3/labels\.txt: expected") as caught:
            registry.get("digits", "3")
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert {(type(error), str(error)) for error in errors} == {(ModelError, registry.state("digits", "3")[1])}


def test_the_version_that_answers_is_the_one_that_is_loaded(models: Path) -> None:
    """The version that answers counts as loaded when its sessions are in memory, although higher versions fail."""
    registry = Registry(models, warm=True)
    assert registry.get_if_checked("digits", "") is None
    assert not registry.is_loaded("digits", "", all_files=False)
    served, model = registry.get("digits")
    assert registry.get_if_checked("digits", "") == (served, model)
    assert registry.is_loaded("digits", "", all_files=True)
    assert not registry.is_loaded("digits", "3", all_files=False)
    assert not registry.is_loaded("none", "", all_files=False)
    shutil.copytree(DIGITS, models / "digits" / "4")
    registry.refresh(at_once=True)
    assert registry.get("digits")[1].version == "4"
    assert registry.is_loaded("digits", "", all_files=False)


def test_the_reason_is_one_printable_line(tmp_path: Path) -> None:
    """What a client reads about a version that cannot serve is printable, whatever the model's file holds."""
    folder = tmp_path / "models" / "digits" / "1"
    shutil.copytree(DIGITS, folder)
    network = onnx.load(folder / "model.onnx", load_external_data=False)
    (entry,) = network.metadata_props
    entry.value = '{"modes": "\u202e\x9b\u200b"}'
    onnx.save(network, folder / "model.onnx")
    registry = Registry(tmp_path / "models", warm=True)
    with pytest.raises(ModelError):
        registry.get("digits")
    ready, reason = registry.state("digits", "1")
    assert not ready
    assert "not a readable ONNX model" in reason
    assert reason.isprintable()
