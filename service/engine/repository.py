"""The model repository on disk: ROOT/NAME/VERSION/ with model.onnx, weights.data and labels.txt.

The ModelSpec of a version, which the converter writes into model.onnx, describes the version and holds the SHA-256
hashes of its files. A version is refused if the hashes differ, if a file is not a regular file, if a path leads out of
the version's folder, or if the spec or the labels are larger than any model needs.
"""

import hashlib
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import local

from google.protobuf import json_format

from fullconv.common.model_files import COLOUR, LABELS, MODEL, NAME, SPEC_KEY, SPEC_VERSION, VERSION, WEIGHTS
from fullconv.protos import model_pb2, onnx_file_pb2
from service.dense.axis import AxisGeometry
from service.dense.cost import SharedCost
from service.dense.tiles import Network
from service.engine.external_data import check_external_data
from service.engine.time_limit import TimeLimit
from service.engine.version_files import WAY_OUT, is_plain_name, model_path, opened, read_file
from service.errors import ModelError

MODES = {"crops", "dense", "shared"}
MODEL_SUFFIX = Path(MODEL).suffix
SETTLED_NS = 2_000_000_000
"""Nanoseconds after the last change of a file, after which the file counts as completely copied."""
NAMES = (
    "expected NAME/VERSION, NAME of letters A to Z and a to z, digits, '.', '_' and '-' that begins with a letter or "
    "digit, VERSION a number without leading zeros; rename the folders"
)
"""Message for folders whose names are invalid."""
MAX_GRAPH_BYTES, MAX_SPEC_LETTERS = 512 << 20, 1 << 20
"""Largest size of an ONNX file without its weights, and largest number of characters of the spec in it."""
MAX_LABELS_BYTES, MAX_LABELS, MAX_LABEL_LETTERS = 64 << 20, 1_000_000, 1000
"""Largest size of the file of labels, largest number of labels, and largest number of characters of a label."""
LOOK_SECONDS = 5.0
"""Seconds within which the file system must answer when the server looks at the repository."""
SHA256 = re.compile("[0-9a-f]{64}")
FACTORS = 9
"""Number of factors of a cost of mode shared."""

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
    serialized_spec: bytes
    labels: tuple[str, ...]
    vertical: AxisGeometry
    horizontal: AxisGeometry
    _copies: local = field(init=False, default_factory=local, repr=False)
    """The spec of each thread, as the attribute `spec`."""

    @property
    def spec(self) -> model_pb2.ModelSpec:
        """The model's spec. Every thread has a copy of its own.

        Under many small requests, a server whose threads read one message ended with SIGSEGV: protobuf 7.36 freed the
        Python object of a submessage twice. With copies this did not happen again.
        """
        try:
            copy: model_pb2.ModelSpec = self._copies.spec
        except AttributeError:
            copy = self._copies.spec = model_pb2.ModelSpec.FromString(self.serialized_spec)
        return copy

    @property
    def values(self) -> int:
        """Number of values of each cell: one score for each class, then those of the further outputs."""
        output = self.spec.output
        return output.classes + sum(further.values for further in output.further)

    @property
    def supports_dense(self) -> bool:
        """Whether the model can run over a whole image in one pass. Every model can run window by window."""
        return "dense" in self.spec.modes

    @property
    def strides(self) -> list[tuple[int, int]]:
        """Stride in pixels of each ONNX file, vertical before horizontal; the native stride is first."""
        return [(entry.stride.height, entry.stride.width) for entry in self.spec.strides]

    @property
    def files(self) -> list[str]:
        """Names of the ONNX files: one for each of `strides`, then those of mode shared."""
        return _files(self.spec)

    def shared_cost(self, number: int, stride: tuple[int, int]) -> SharedCost:
        """Return the cost of a file of `spec.shared` at a stride in pixels, vertical before horizontal."""
        file, axes = self.spec.shared[number], (self.vertical, self.horizontal)
        if not file.margin_limit:
            axes = axes[0].crop_geometry(), axes[1].crop_geometry()
        network = Network(*axes, stride)
        multiply_adds, activation_bytes, moved_bytes = map(
            tuple[float, ...], (file.multiply_adds, file.activation_bytes, file.moved_bytes)
        )
        return SharedCost(multiply_adds, activation_bytes, moved_bytes, network)

    def label(self, index: int) -> str:
        """Return the label of a class, or its index in decimal if the model has no labels."""
        return self.labels[index] if self.labels else str(index)


@dataclass(frozen=True)
class Contents:
    """The versions in a repository, as they were found by one look at it."""

    fingerprints: dict[tuple[str, str], Fingerprint]
    """Of each (name, version); OUT_OF_REACH for a version that cannot be accessed now."""
    unlisted: dict[str, str]
    """The reason for each model's folder that cannot be listed now."""


@dataclass(frozen=True)
class ModelRepository:
    """A directory of models. A volume that does not answer causes an OSError and blocks nothing else."""

    root: Path
    reads: TimeLimit = field(default_factory=lambda: TimeLimit(LOOK_SECONDS), repr=False, compare=False)
    """Limits the time of each look at the file system, but not of `open`, which reads the files of a version."""

    def look(self, known: Iterable[tuple[str, str]] = ()) -> Contents:
        """Look at all models; raises OSError if the root cannot be listed.

        `known` are the versions to look at if the folder of their model cannot be listed now.
        """
        listed = self.reads.run_all({name: partial(self._versions, name) for name in self.reads.run("", self._names)})
        keys, unlisted = list[tuple[str, str]](), dict[str, str]()
        for name, versions in listed.items():
            if isinstance(versions, list):
                keys += [(name, version) for version in versions]
            elif isinstance(versions, OSError) and not isinstance(versions, FileNotFoundError | NotADirectoryError):
                keys += [key for key in known if key[0] == name]
                unlisted[name] = str(versions.strerror)
        looks = self.reads.run_all({key: partial(self._fingerprint_if_exists, *key) for key in keys})
        found = {key: OUT_OF_REACH if isinstance(look, Exception) else look for key, look in looks.items() if look}
        return Contents(found, unlisted)

    def invalid_names(self) -> list[str]:
        """Return model folders with invalid names, as "my model/1" or "digits/v1", which cannot be requested."""
        try:
            paths = self.reads.run("invalid names", lambda: list(self.root.glob(f"*/*/{MODEL}")))
        except OSError:
            return []  # a folder cannot be listed now; the next call finds its models
        invalid = []
        for path in paths:
            name, version = path.relative_to(self.root).parts[:2]
            hidden = name.startswith(".") or version.startswith(".")  # the converter writes into hidden folders first
            if not hidden and not (NAME.fullmatch(name) and VERSION.fullmatch(version)):
                invalid.append(f"{name}/{version}")
        return sorted(invalid)

    def fingerprint(self, name: str, version: str) -> Fingerprint:
        """Return the fingerprint of a version; raises OSError if its folder or a file in it cannot be accessed."""
        return self.reads.run((name, version), partial(self._fingerprint, name, version))

    def is_settled(self, name: str, version: str) -> bool:
        """Return whether a version looks completely copied: it has weights, and no file changed in `SETTLED_NS`.

        Raises OSError if its folder or a file in it cannot be accessed.
        """

        def changes() -> dict[str, int]:  # st_mtime may be that of the copied file
            return {file.name: file.stat().st_ctime_ns for file in self._files(name, version)}

        changed, now = self.reads.run((name, version), changes), time.time_ns()
        return WEIGHTS in changed and not any(0 <= now - at < SETTLED_NS for at in changed.values())

    def has_folder(self, name: str) -> bool:
        """Return whether there is a folder for a model, and it can be accessed."""
        try:
            return NAME.fullmatch(name) is not None and self.reads.run(name, (self.root / name).is_dir)
        except OSError:
            return False

    def open(self, name: str, version: str) -> StoredModel:
        """Read a version's spec and labels and check the hashes of its files; raises ModelError."""
        return _open(name, version, self.root / name / version)

    def _names(self) -> list[str]:
        return sorted(folder.name for folder in self.root.iterdir() if NAME.fullmatch(folder.name))

    def _fingerprint(self, name: str, version: str) -> Fingerprint:
        return tuple((file.name, _stat(file)) for file in self._files(name, version))

    def _fingerprint_if_exists(self, name: str, version: str) -> Fingerprint | None:
        try:
            fingerprint = self._fingerprint(name, version)
        except (FileNotFoundError, NotADirectoryError):
            return None  # the folder is being removed
        return fingerprint if MODEL in dict(fingerprint) else None

    def _files(self, name: str, version: str) -> list[Path]:
        """Return the paths of the files that belong to a version, by name."""
        files = sorted((self.root / name / version).iterdir())
        return [file for file in files if file.suffix == MODEL_SUFFIX or file.name in (WEIGHTS, LABELS)]

    def _versions(self, name: str) -> list[str]:
        folders = (folder.name for folder in (self.root / name).iterdir())
        return sorted((version for version in folders if VERSION.fullmatch(version)), key=int)


def read_spec(path: Path) -> model_pb2.ModelSpec:
    """Read the ModelSpec from an ONNX file's metadata, without its weights; raises ModelError."""
    file, model = model_path(path), _read_graph(path)
    text = next((entry.value for entry in model.metadata_props if entry.key == SPEC_KEY), None)
    if text is None:
        raise ModelError(f"{file}: expected metadata {SPEC_KEY!r}; convert the model with fullconv-convert")
    if len(text) > MAX_SPEC_LETTERS:
        raise ModelError(
            f"{file}: {SPEC_KEY}: expected at most {MAX_SPEC_LETTERS} letters, got {len(text)}; convert the model again"
        )
    try:
        spec = parse_spec(text)
    except Exception as error:  # protobuf and json_format raise errors of unrelated classes
        raise ModelError(f"{file}: not a readable ONNX model: {error}; {WAY_OUT}") from None
    _check_spec(file, spec)
    return spec


def parse_spec(text: str) -> model_pb2.ModelSpec:
    """Return a ModelSpec from its JSON; raises errors of unrelated classes."""
    return json_format.Parse(text, model_pb2.ModelSpec(), ignore_unknown_fields=True)


def _read_graph(path: Path) -> onnx_file_pb2.ModelProto:
    """Read an ONNX file without its weights; raises ModelError, also if its weights are not in the version."""
    data = read_file(path, MAX_GRAPH_BYTES)
    try:
        model = onnx_file_pb2.ModelProto.FromString(data)
    except Exception as error:  # protobuf raises errors of unrelated classes
        raise ModelError(f"{model_path(path)}: not a readable ONNX model: {error}; {WAY_OUT}") from None
    check_external_data(model_path(path), model)
    return model


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
    for number, name in enumerate(_files(spec)):
        shared = number - len(spec.strides)
        if not is_plain_name(name) or not name.endswith(MODEL_SUFFIX):
            field_name = f"strides[{number}].file" if shared < 0 else f"shared[{shared}].file"
            raise ModelError(
                f"{file}: {field_name}: expected the name of an {MODEL_SUFFIX} file in the version's folder, got "
                f"{name[:100]!r}; convert the model again"
            )
    _check_colours_and_scale(file, spec)
    names = [further.name for further in spec.output.further]
    known = {spec.output.name, "scores", "average"}
    if len({*names, *known}) < len(names) + len(known) or not all(each.values for each in spec.output.further):
        raise ModelError(
            f"{file}: output.further: expected outputs of different names, none of them average, each with a value, "
            f"got {', '.join(names)[:100]}; convert the model again"
        )
    for number, entry in enumerate(spec.shared):
        _check_shared(f"{file}: shared[{number}]", entry)
    for name, digest in (("weights_sha256", spec.weights_sha256), ("labels_sha256", spec.labels_sha256 or "0" * 64)):
        if not SHA256.fullmatch(digest):
            raise ModelError(
                f"{file}: {name}: expected 64 hexadecimal digits, got {digest[:100]!r}; convert the model again"
            )


def _check_colours_and_scale(file: str, spec: model_pb2.ModelSpec) -> None:
    """Raise ModelError if the colours or the size of a pixel are invalid."""
    if spec.colours and len(spec.colours) != spec.output.classes:
        raise ModelError(
            f"{file}: colours: expected {spec.output.classes}, got {len(spec.colours)}; convert the model again"
        )
    if not all(COLOUR.fullmatch(colour) for colour in spec.colours):
        raise ModelError(
            f'{file}: colours: expected "#rrggbb" or an empty text for each class; convert the model again'
        )
    if not 0 <= spec.microns_per_pixel < math.inf:
        raise ModelError(
            f"{file}: microns_per_pixel: expected a number from 0, got {spec.microns_per_pixel}; convert the model "
            "again"
        )


def _files(spec: model_pb2.ModelSpec) -> list[str]:
    return [*(entry.file for entry in spec.strides), *(entry.file for entry in spec.shared)]


def _check_shared(where: str, shared: model_pb2.SharedFile) -> None:
    """Raise ModelError for a file of mode shared without a cost or a stride."""
    costs = shared.multiply_adds, shared.activation_bytes, shared.moved_bytes
    if any(len(factors) != FACTORS or not all(0 <= factor < math.inf for factor in factors) for factors in costs):
        raise ModelError(
            f"{where}: expected {FACTORS} factors, finite and not negative, for multiply_adds, activation_bytes and "
            "moved_bytes; convert the model again"
        )
    if not (shared.multiple_of.height and shared.multiple_of.width and any(shared.activation_bytes)):
        raise ModelError(f"{where}: expected a multiple of pixels and a cost, got 0; convert the model again")


def _open(name: str, version: str, folder: Path) -> StoredModel:
    spec = read_spec(folder / MODEL)
    for file in set(_files(spec)) - {MODEL}:
        _read_graph(folder / file)
    _check_hash(folder / WEIGHTS, spec.weights_sha256)
    labels = _read_labels(folder / LABELS, spec) if spec.labels_sha256 else ()
    return stored_model(name, version, folder, spec, labels)


def stored_model(
    name: str, version: str, folder: Path, spec: model_pb2.ModelSpec, labels: Iterable[str]
) -> StoredModel:
    """Return a version from its spec and labels; raises ModelError for an invalid geometry."""
    try:
        vertical, horizontal = (
            AxisGeometry(window, axis.stride, axis.receptive_field, axis.padding_before, axis.padding_after)
            for window, axis in ((spec.window.height, spec.vertical), (spec.window.width, spec.horizontal))
        )
    except ValueError as error:
        raise ModelError(f"{name}/{version}: {error}; {WAY_OUT}") from None
    return StoredModel(name, version, folder, spec.SerializeToString(), tuple(labels), vertical, horizontal)


def _check_hash(path: Path, expected: str) -> None:
    with opened(path) as file:
        _check_digest(path, hashlib.file_digest(file, "sha256").hexdigest(), expected)


def _check_digest(path: Path, got: str, expected: str) -> None:
    if got != expected:
        raise ModelError(f"{model_path(path)}: expected sha256 {expected}, got {got}; {WAY_OUT}")


def _read_labels(path: Path, spec: model_pb2.ModelSpec) -> tuple[str, ...]:
    """Read the labels; raises ModelError. They are counted before they are split."""
    data = read_file(path, MAX_LABELS_BYTES)
    _check_digest(path, hashlib.sha256(data).hexdigest(), spec.labels_sha256)
    lines, file = data.removesuffix(b"\n"), model_path(path)
    count = lines.count(b"\n") + 1
    if count != spec.output.classes or count > MAX_LABELS:
        raise ModelError(f"{file}: expected {min(spec.output.classes, MAX_LABELS)} labels, got {count}")
    try:
        labels = lines.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: {error}; {WAY_OUT}") from None
    longest = max(map(len, labels))
    if longest > MAX_LABEL_LETTERS:
        raise ModelError(
            f"{file}: expected labels of at most {MAX_LABEL_LETTERS} letters, got {longest}; convert the model again"
        )
    return tuple(labels)


def _stat(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
