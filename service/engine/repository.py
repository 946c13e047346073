"""The model repository on disk: ROOT/NAME/VERSION/ with model.onnx, weights.data and labels.txt.

The ModelSpec of a version, which the converter writes into model.onnx, describes the version and holds the SHA-256
hashes of its files. A version with other hashes is refused.
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
SETTLED_NS = 2_000_000_000
"""Nanoseconds after the last change of a file, after which the file counts as completely copied."""
NAMES = (
    "expected NAME/VERSION, NAME of letters A to Z and a to z, digits, '.', '_' and '-' that begins with a letter or "
    "digit, VERSION a number without leading zeros; rename the folders"
)
"""Message for folders whose names are invalid."""
WAY_OUT = "copy the version into this directory again, or convert the model again"
"""What to do about damaged files."""

Fingerprint = tuple[tuple[str, tuple[int, int, int]], ...]
"""Name, size in bytes, modification time in nanoseconds and inode of each file of a version. If a file changes, so does
the fingerprint."""
OUT_OF_REACH: Fingerprint = (("", (0, 0, 0)),)
"""Fingerprint of a version that exists and whose files cannot be listed now."""


@dataclass(frozen=True, eq=False)
class StoredModel:
    """One version of one model, whose files have the hashes in its spec."""

    name: str
    version: str
    folder: Path
    spec: model_pb2.ModelSpec
    labels: tuple[str, ...]
    vertical: AxisGeometry
    horizontal: AxisGeometry

    @property
    def supports_dense(self) -> bool:
        """Whether the model can run over a whole image in one pass. Every model can run window by window."""
        return "dense" in self.spec.modes

    @property
    def strides(self) -> list[tuple[int, int]]:
        """Stride in pixels of each ONNX file, vertical before horizontal; the native stride is first."""
        return [(entry.stride.height, entry.stride.width) for entry in self.spec.strides]

    def label(self, index: int) -> str:
        """Return the label of a class, or its index in decimal if the model has no labels."""
        return self.labels[index] if self.labels else str(index)


@dataclass(frozen=True)
class ModelRepository:
    """A directory of models."""

    root: Path

    def fingerprints(self, known: Iterable[tuple[str, str]] = ()) -> Iterator[tuple[tuple[str, str], Fingerprint]]:
        """Yield every (name, version) with its fingerprint; raises OSError if the root cannot be listed.

        If a model's folder cannot be listed now, its versions among `known` are yielded.
        """
        for name in sorted(folder.name for folder in self.root.iterdir() if NAME.fullmatch(folder.name)):
            try:
                versions = self._versions(name)
            except (FileNotFoundError, NotADirectoryError):
                continue  # the folder is being removed, or this is a file
            except OSError:
                versions = [version for model, version in known if model == name]
            for version in versions:
                fingerprint = self._fingerprint_if_exists(name, version)
                if fingerprint is not None:
                    yield (name, version), fingerprint

    def invalid_names(self) -> list[str]:
        """Return model folders with invalid names, as "my model/1" or "digits/v1", which cannot be requested."""
        invalid = []
        try:
            paths = list(self.root.glob(f"*/*/{MODEL}"))
        except OSError:
            return []  # a folder cannot be listed now; the next call finds its models
        for path in paths:
            name, version = path.relative_to(self.root).parts[:2]
            hidden = name.startswith(".") or version.startswith(".")  # the converter writes into hidden folders first
            if not hidden and not (NAME.fullmatch(name) and VERSION.fullmatch(version)):
                invalid.append(f"{name}/{version}")
        return sorted(invalid)

    def fingerprint(self, name: str, version: str) -> Fingerprint:
        """Return the fingerprint of a version; raises OSError if its folder or a file in it cannot be accessed."""
        return tuple((file.name, _stat(file)) for file in self._files(name, version))

    def _fingerprint_if_exists(self, name: str, version: str) -> Fingerprint | None:
        try:
            fingerprint = self.fingerprint(name, version)
        except (FileNotFoundError, NotADirectoryError):
            return None  # the folder is being removed
        except OSError:
            return OUT_OF_REACH
        return fingerprint if MODEL in dict(fingerprint) else None

    def is_settled(self, name: str, version: str) -> bool:
        """Return whether a version looks completely copied: it has weights, and no file changed in `SETTLED_NS`."""
        now, files = time.time_ns(), self._files(name, version)
        changed = [file.stat().st_ctime_ns for file in files]  # st_mtime may be that of the copied file
        return any(file.name == WEIGHTS for file in files) and not any(0 <= now - at < SETTLED_NS for at in changed)

    def has_folder(self, name: str) -> bool:
        """Return whether there is a folder for a model, and it can be accessed."""
        try:
            return NAME.fullmatch(name) is not None and (self.root / name).is_dir()
        except OSError:
            return False

    def open(self, name: str, version: str) -> StoredModel:
        """Read a version's spec and labels and check the hashes of its files; raises ModelError."""
        return _open(name, version, self.root / name / version)

    def _files(self, name: str, version: str) -> list[Path]:
        """Return the paths of the files that belong to a version, by name."""
        files = sorted((self.root / name / version).iterdir())
        return [file for file in files if file.suffix == MODEL_SUFFIX or file.name in (WEIGHTS, LABELS)]

    def _versions(self, name: str) -> list[str]:
        folders = (folder.name for folder in (self.root / name).iterdir())
        return sorted((version for version in folders if VERSION.fullmatch(version)), key=int)


def model_path(path: Path) -> str:
    """Return the last three parts of a path, for messages: "digits/1/model.onnx"."""
    return "/".join(path.parts[-3:])


def read_spec(path: Path) -> model_pb2.ModelSpec:
    """Read the ModelSpec from an ONNX file's metadata, without its weights; raises ModelError."""
    file = model_path(path)
    try:
        model = onnx.load(path, load_external_data=False)
        text = next(entry.value for entry in model.metadata_props if entry.key == SPEC_KEY)
        spec = json_format.Parse(text, model_pb2.ModelSpec(), ignore_unknown_fields=True)
    except OSError as error:
        raise _unreadable(path, error) from None
    except StopIteration:
        raise ModelError(f"{file}: expected metadata {SPEC_KEY!r}; convert the model with fullconv-convert") from None
    except Exception as error:  # protobuf and json_format raise errors of unrelated classes
        raise ModelError(f"{file}: not a readable ONNX model: {error}; {WAY_OUT}") from None
    _check_spec(file, spec)
    return spec


def _check_spec(file: str, spec: model_pb2.ModelSpec) -> None:
    """Raise ModelError for a spec that this release cannot serve."""
    if not set(spec.modes) <= MODES or not spec.modes:
        raise ModelError(f"{file}: expected modes among {', '.join(MODES)}, got {list(spec.modes)}; update fullconv")
    if not (spec.strides and len(spec.strides) == len(spec.cost) == len(spec.parity)) or not all(
        cost.activation_bytes_per_pixel > 0 for cost in spec.cost
    ):
        raise ModelError(
            f"{file}: expected strides, and the cost and parity of each stride, in {SPEC_KEY!r}; convert the model "
            "again"
        )
    if spec.spec_version != SPEC_VERSION:
        raise ModelError(f"{file}: expected spec_version {SPEC_VERSION}, got {spec.spec_version}; update fullconv")


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
        raise ModelError(f"{name}/{version}: {error}; {WAY_OUT}") from None
    if labels and len(labels) != spec.output.classes:
        raise ModelError(f"{name}/{version}/labels.txt: expected {spec.output.classes} labels, got {len(labels)}")
    return StoredModel(name, version, folder, spec, tuple(labels), vertical, horizontal)


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
        raise ModelError(f"{model_path(path)}: expected sha256 {expected}, got {got}; {WAY_OUT}")


def _unreadable(path: Path, error: OSError) -> ModelError:
    """Return a ModelError for a missing file, or an UnreadableModelError for a file that cannot be read now."""
    if isinstance(error, FileNotFoundError):
        return ModelError(f"{model_path(path)}: expected a file, got none; {WAY_OUT}")
    return UnreadableModelError(f"{model_path(path)}: cannot be read: {error.strerror}")


def _stat(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
