"""The model repository: ROOT/NAME/VERSION/model.onnx, weights.data, labels.txt.

What a version is, its ModelSpec says, which the converter writes into model.onnx. Files that do not match the hashes
in it are refused.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf import json_format

from fullconv.common.model_files import LABELS, MODEL, NAME, SPEC_KEY, SPEC_VERSION, VERSION, WEIGHTS
from fullconv.protos import model_pb2
from service.dense.axis import AxisGeometry
from service.errors import ModelError, UnreadableModelError

MODES = {"crops", "dense"}
MODEL_SUFFIX = Path(MODEL).suffix
Fingerprint = tuple[tuple[str, tuple[int, int, int]], ...]
"""Names of files, their sizes, times and inodes: another one where what is in them is another."""
SETTLED_NS = 2_000_000_000
"""After a file's last change."""
NAMES = (
    "expected NAME/VERSION: letters A to Z and a to z, digits, '.', '_' and '-', a letter or digit first; and a number "
    "without zeros before it; rename the folders"
)
REPLACE = "copy the version here once more, or convert the model again"
OUT_OF_REACH: Fingerprint = (("", (0, 0, 0)),)
"""Of a version that is there, and cannot be looked at now."""


@dataclass(frozen=True, eq=False)
class StoredModel:
    """One version of one model, its files checked against their hashes."""

    name: str
    version: str
    folder: Path
    spec: model_pb2.ModelSpec
    labels: tuple[str, ...]
    vertical: AxisGeometry
    horizontal: AxisGeometry

    @property
    def supports_dense(self) -> bool:
        """Whether the model runs over images of any size in one pass, and not only window by window."""
        return "dense" in self.spec.modes

    @property
    def strides(self) -> list[tuple[int, int]]:
        """Pixels between the windows of each of its files, vertical before horizontal, the native stride first."""
        return [(entry.stride.height, entry.stride.width) for entry in self.spec.strides]

    def label(self, index: int) -> str:
        """The class's label, or its index in decimal where the model has none."""
        return self.labels[index] if self.labels else str(index)


@dataclass(frozen=True)
class ModelRepository:
    """A directory of models."""

    root: Path

    def fingerprints(self, known: Iterable[tuple[str, str]] = ()) -> Iterator[tuple[tuple[str, str], Fingerprint]]:
        """Every (name, version), and what changes when its files do; raises OSError where nothing can be looked at.

        Of a model whose folder cannot be looked at now, those that are known are there.
        """
        for name in sorted(folder.name for folder in self.root.iterdir() if NAME.fullmatch(folder.name)):
            try:
                versions = self._versions(name)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it is being removed, or is no model
            except OSError:
                versions = [version for model, version in known if model == name]
            for version in versions:
                fingerprint = self._fingerprint_if_there(name, version)
                if fingerprint is not None:
                    yield (name, version), fingerprint

    def invalid_names(self) -> list[str]:
        """Folders of models that nobody can ask for, as "my model/1" or "digits/v1": their names are none."""
        found = []
        try:
            paths = list(self.root.glob(f"*/*/{MODEL}"))
        except OSError:
            return []  # a folder is out of reach: another look finds them
        for path in paths:
            name, version = path.relative_to(self.root).parts[:2]
            hidden = name.startswith(".") or version.startswith(".")  # as what is being written is
            if not hidden and not (NAME.fullmatch(name) and VERSION.fullmatch(version)):
                found.append(f"{name}/{version}")
        return sorted(found)

    def fingerprint(self, name: str, version: str) -> Fingerprint:
        """What changes when a version's files do; raises OSError where one is being removed."""
        return tuple((file.name, _stat(file)) for file in self._files(name, version))

    def _fingerprint_if_there(self, name: str, version: str) -> Fingerprint | None:
        try:
            fingerprint = self.fingerprint(name, version)
        except (FileNotFoundError, NotADirectoryError):
            return None  # it is being removed
        except OSError:
            return OUT_OF_REACH
        return fingerprint if MODEL in dict(fingerprint) else None

    def is_settled(self, name: str, version: str) -> bool:
        """Whether files are all there and have been as they are for a while: none is still being copied, it seems."""
        now, files = time.time_ns(), self._files(name, version)
        changed = [file.stat().st_ctime_ns for file in files]  # a copy may bring its modification time along
        return any(file.name == WEIGHTS for file in files) and not any(0 <= now - at < SETTLED_NS for at in changed)

    def has(self, name: str) -> bool:
        """Whether there is anything of that name, within reach."""
        try:
            return NAME.fullmatch(name) is not None and (self.root / name).is_dir()
        except OSError:
            return False

    def _files(self, name: str, version: str) -> list[Path]:
        """What a version consists of."""
        files = sorted((self.root / name / version).iterdir())
        return [file for file in files if file.suffix == MODEL_SUFFIX or file.name in (WEIGHTS, LABELS)]

    def open(self, name: str, version: str) -> StoredModel:
        """Read a version that is there, and check its files; raises ModelError."""
        return _open(name, version, self.root / name / version)

    def _versions(self, name: str) -> list[str]:
        found = (folder.name for folder in (self.root / name).iterdir())
        return sorted((version for version in found if VERSION.fullmatch(version)), key=int)


def _stat(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _open(name: str, version: str, folder: Path) -> StoredModel:
    spec = read_spec(folder / MODEL)
    for file, digest in _hashed_files(spec):
        _check_hash(folder / file, digest)
    try:
        labels = (folder / LABELS).read_text("utf-8").removesuffix("\n").split("\n") if spec.labels_sha256 else []
        vertical, horizontal = (
            AxisGeometry(window, axis.stride, axis.receptive_field, axis.padding_before, axis.padding_after)
            for window, axis in ((spec.window.height, spec.vertical), (spec.window.width, spec.horizontal))
        )
    except OSError as error:
        raise _unreadable(folder / LABELS, error) from None
    except ValueError as error:
        raise ModelError(f"{name}/{version}: {error}; {REPLACE}") from None
    if labels and len(labels) != spec.output.classes:
        raise ModelError(f"{name}/{version}/labels.txt: expected {spec.output.classes} labels, got {len(labels)}")
    return StoredModel(name, version, folder, spec, tuple(labels), vertical, horizontal)


def model_path(file: Path) -> str:
    """A model's file for messages, from the repository on: "digits/1/model.onnx"."""
    return "/".join(file.parts[-3:])


def read_spec(path: Path) -> model_pb2.ModelSpec:
    """Read the ModelSpec out of an ONNX file's metadata, without touching its weights."""
    try:
        model = onnx.load(path, load_external_data=False)
        text = next(entry.value for entry in model.metadata_props if entry.key == SPEC_KEY)
        spec = json_format.Parse(text, model_pb2.ModelSpec(), ignore_unknown_fields=True)
    except OSError as error:
        raise _unreadable(path, error) from None
    except StopIteration:
        raise ModelError(
            f"{model_path(path)}: expected metadata {SPEC_KEY!r}; convert the model with fullconv-convert"
        ) from None
    except Exception as error:  # protobuf and json_format raise their own, unrelated kinds
        raise ModelError(f"{model_path(path)}: not a readable ONNX model: {error}; {REPLACE}") from None
    if not set(spec.modes) <= MODES or not spec.modes:
        raise ModelError(
            f"{model_path(path)}: expected modes among {', '.join(MODES)}, got {list(spec.modes)}; update fullconv"
        )
    if not (spec.strides and len(spec.strides) == len(spec.cost) == len(spec.parity)) or not all(
        cost.activation_bytes_per_pixel > 0 for cost in spec.cost
    ):
        raise ModelError(
            f"{model_path(path)}: expected strides, and cost and parity of each, in {SPEC_KEY!r}; "
            "convert the model again"
        )
    if spec.spec_version != SPEC_VERSION:
        raise ModelError(
            f"{model_path(path)}: expected spec_version {SPEC_VERSION}, got {spec.spec_version}; update fullconv"
        )
    return spec


def _hashed_files(spec: model_pb2.ModelSpec) -> Iterator[tuple[str, str]]:
    yield WEIGHTS, spec.weights_sha256
    if spec.labels_sha256:
        yield LABELS, spec.labels_sha256


def _check_hash(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None
    if got != expected:
        raise ModelError(f"{model_path(path)}: expected sha256 {expected}, got {got}; {REPLACE}")


def _unreadable(path: Path, error: OSError) -> ModelError:
    """What is wrong with a file that is not there, or that cannot be read now and may be later."""
    if isinstance(error, FileNotFoundError):
        return ModelError(f"{model_path(path)}: there is no such file; {REPLACE}")
    return UnreadableModelError(f"{model_path(path)}: cannot be read: {error.strerror}")
