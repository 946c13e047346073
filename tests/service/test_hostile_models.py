"""Versions that the converter does not write: special files, paths to other places, too much text."""

import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from support.hostile_models import DIGITS, FLOAT, copy_version, edit_graph, edit_spec

from fullconv.common.model_files import SPEC_KEY
from fullconv.protos import model_pb2
from service.engine import repository
from service.engine.registry import Registry
from service.engine.repository import ModelRepository
from service.errors import ModelError, UnreadableModelError

FILES = ["model.onnx", "weights.data", "labels.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a version in a repository."""
    return copy_version(tmp_path / "models" / "digits" / "1")


def refusal(folder: Path) -> str:
    """Return the error of a version that must be refused permanently."""
    with pytest.raises(ModelError) as refused:
        ModelRepository(folder.parent.parent).open("digits", "1")
    assert not isinstance(refused.value, UnreadableModelError)
    return str(refused.value)


def make_socket(path: Path) -> None:
    """Bind a socket, by a short name in its folder: the path may be too long for an address."""
    home = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.chdir(home)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a named pipe"), (make_socket, "a socket"), (Path.mkdir, "a directory")],
    ids=["pipe", "socket", "directory"],
)
def test_only_regular_files_are_opened(folder: Path, name: str, make: Callable[[Path], None], kind: str) -> None:
    """A special file or a directory in place of a file is refused at once; the error names the file and its kind."""
    (folder / name).unlink()
    make(folder / name)
    assert refusal(folder).startswith(f"digits/1/{name}: expected a regular file, got {kind}; ")


def test_a_pipe_that_replaces_a_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named pipe blocks nothing, even if it takes the place of a file after the look at it."""
    real = Path.stat(folder / "model.onnx")
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    monkeypatch.setattr(Path, "stat", lambda _: real)
    assert "model.onnx: expected a regular file, got a named pipe" in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_links_to_elsewhere_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    """A file that is a link to a place outside of the repository is refused; the error hides the target."""
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    error = refusal(folder)
    assert error.startswith(f"digits/1/{name}: expected a file in the repository, got a symbolic link to another place")
    assert "elsewhere" not in error


def test_links_to_devices_are_refused(folder: Path) -> None:
    """A link to a device is refused before the device is opened."""
    (folder / "weights.data").unlink()
    (folder / "weights.data").symlink_to("/dev/zero")
    assert "weights.data: expected a file in the repository" in refusal(folder)


def test_links_that_lead_in_circles_are_refused(folder: Path) -> None:
    """A link to itself is a file that cannot be read."""
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").symlink_to("labels.txt")
    with pytest.raises(UnreadableModelError, match=r"labels\.txt: cannot be read: Too many levels"):
        ModelRepository(folder.parent.parent).open("digits", "1")


def test_links_inside_of_the_repository_are_followed(tmp_path: Path) -> None:
    """A volume of Kubernetes, in which every file is a link into a hidden folder of the same volume, serves."""
    folder = tmp_path / "models" / "digits" / "1"
    copy_version(folder / "..2026_11_28")
    (folder / "..data").symlink_to("..2026_11_28")
    for name in FILES:
        (folder / name).symlink_to(Path("..data") / name)
    registry = Registry(tmp_path / "models", warm=True)
    assert registry.get("digits")[1].version == "1"


@pytest.mark.parametrize("link", ["models", "models/digits", "models/digits/1"])
def test_folders_may_be_links(tmp_path: Path, link: str) -> None:
    """The repository, the folder of a model and the folder of a version may be links to another place."""
    inner = Path("models/digits/1").relative_to(link)
    copy_version(tmp_path / "elsewhere" / inner)
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    assert Registry(tmp_path / "models", warm=True).get("digits")[1].version == "1"


@pytest.mark.parametrize(
    "name", ["../../other/1/model.onnx", "/models/model.onnx", "a/model.onnx", "..", "", "weights.data", "a\0.onnx"]
)
def test_files_of_strides_are_plain_names(folder: Path, name: str) -> None:
    """A spec is refused if the file of a stride is not the name of an ONNX file; the error names the field."""
    copy_version(folder.parent.parent / "other" / "1")

    def rename(spec: model_pb2.ModelSpec) -> None:
        spec.strides[0].file = name

    edit_graph(folder / "model.onnx", edit_spec(rename))
    expected = "digits/1/model.onnx: strides[0].file: expected the name of an .onnx file in the version's folder, got "
    assert refusal(folder).startswith(f"{expected}{name!r}")


def add_external(model: onnx.ModelProto, location: str) -> onnx.TensorProto:
    """Return a tensor whose data is in another file."""
    tensor = onnx.TensorProto(name="far", data_type=FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model.graph.node.append(helper.make_node("Constant", [], ["constant"], value=tensor))
    return tensor


@pytest.mark.parametrize("location", ["../2/weights.data", "/dev/zero", "other.data", "./weights.data"])
@pytest.mark.parametrize("where", ["node", "initializer", "other stride"])
def test_external_data_is_in_the_file_of_weights(folder: Path, location: str, where: str) -> None:
    """A graph whose weights lie in any other file than weights.data is refused, wherever it names that file."""

    def edit(model: onnx.ModelProto) -> None:
        if where == "initializer":
            model.graph.initializer.append(add_external(model, location))
            del model.graph.node[-1]
        else:
            add_external(model, location)

    file = "model.onnx"
    if where == "other stride":
        file = "model.stride4.onnx"
        shutil.copy(folder / "model.onnx", folder / file)

        def add_stride(spec: model_pb2.ModelSpec) -> None:
            spec.strides.add().CopyFrom(spec.strides[0])
            spec.cost.add().CopyFrom(spec.cost[0])
            spec.parity.add().CopyFrom(spec.parity[0])
            spec.strides[1].file = file

        edit_graph(folder / "model.onnx", edit_spec(add_stride))
    edit_graph(folder / file, edit)
    assert refusal(folder).startswith(
        f"digits/1/{file}: external data of 'far': expected the location 'weights.data', got {location!r}; "
    )


def relabel(folder: Path, labels: bytes, classes: int | None = None) -> None:
    """Write labels, whose hash is right, and optionally a number of classes."""
    (folder / "labels.txt").write_bytes(labels)

    def change(spec: model_pb2.ModelSpec) -> None:
        spec.labels_sha256 = hashlib.sha256(labels).hexdigest()
        spec.output.classes = spec.output.classes if classes is None else classes

    edit_graph(folder / "model.onnx", edit_spec(change))


def test_gigabytes_of_labels_are_not_read(folder: Path) -> None:
    """A file of labels of a gigabyte is refused by its size."""
    os.truncate(folder / "labels.txt", 1 << 30)
    assert refusal(folder).startswith(f"digits/1/labels.txt: expected at most {64 << 20} bytes, got {1 << 30}; ")


def test_labels_are_counted_before_they_are_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More labels than classes, or more than a limit, are refused."""
    relabel(folder, b"a\n" * 12)
    assert refusal(folder).startswith("digits/1/labels.txt: expected 11 labels, got 12")
    monkeypatch.setattr(repository, "MAX_LABELS", 10)
    relabel(folder, b"a\n" * 12, classes=12)
    assert refusal(folder).startswith("digits/1/labels.txt: expected 10 labels, got 12")


def test_labels_have_a_length(folder: Path) -> None:
    """A label of 1001 letters is refused, and a label of 1000 letters is not."""
    relabel(folder, b"a\n" * 10 + b"a" * 1001)
    assert refusal(folder).startswith("digits/1/labels.txt: expected labels of at most 1000 letters, got 1001")
    relabel(folder, b"a\n" * 10 + b"a" * 1000)
    assert len(ModelRepository(folder.parent.parent).open("digits", "1").labels[10]) == 1000


def test_specs_have_a_size(folder: Path) -> None:
    """A spec of more than a mebibyte is refused, and so is an ONNX file of more than half a gibibyte."""

    def grow(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == SPEC_KEY).value += " " * (1 << 20)

    edit_graph(folder / "model.onnx", grow)
    assert f"model.onnx: {SPEC_KEY}: expected at most {1 << 20} letters, got " in refusal(folder)
    os.truncate(folder / "model.onnx", 1 << 30)
    assert refusal(folder).startswith(f"digits/1/model.onnx: expected at most {512 << 20} bytes, got {1 << 30}; ")


def test_hashes_are_hashes(folder: Path) -> None:
    """A spec with an invalid hash is refused; the error names the field and shortens the value."""

    def change(spec: model_pb2.ModelSpec) -> None:
        spec.weights_sha256 = "x" * 100_000

    edit_graph(folder / "model.onnx", edit_spec(change))
    error = refusal(folder)
    assert error.startswith("digits/1/model.onnx: weights_sha256: expected 64 hexadecimal digits, got 'xxx")
    assert len(error) < 300


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda spec: spec.colours.append("#123456"), "colours: expected 11, got 1"),
        (lambda spec: spec.colours.extend(["url(//host)"] * 11), 'colours: expected "#rrggbb"'),
        (lambda spec: setattr(spec, "microns_per_pixel", -1), "microns_per_pixel: expected a number from 0, got -1"),
    ],
)
def test_colours_and_sizes_have_a_meaning(
    folder: Path, change: Callable[[model_pb2.ModelSpec], None], expected: str
) -> None:
    """Colours that are no colours, and a pixel of negative size, are refused."""
    edit_graph(folder / "model.onnx", edit_spec(change))
    assert refusal(folder).startswith(f"digits/1/model.onnx: {expected}")


def test_errors_of_versions_are_short_and_printable(folder: Path) -> None:
    """The error of a library about a hostile file becomes one short, printable line in the list of models."""

    def spoil(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == SPEC_KEY).value = (
            '{"' + "\x1b[31m" * 5000 + '": 1, "strides": 5}'
        )

    edit_graph(folder / "model.onnx", spoil)
    registry = Registry(folder.parent.parent, warm=True)
    registry.check("digits", "1")
    error = registry.state("digits", "1")[1]
    assert "not a readable ONNX model" in error
    assert error.isprintable()
    assert len(error) <= 1001


def test_the_shipped_model_is_served(folder: Path) -> None:
    """The model that the hostile versions are copies of serves."""
    assert Registry(folder.parent.parent, warm=True).get("digits")[1].folder == folder
    assert DIGITS.is_dir()
