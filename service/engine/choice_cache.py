"""Keeps the choices of backends in the user's cache directory, so that each is measured once.

A choice is valid for the same files, processors, candidates and releases. A choice that cannot be read or written is
measured again.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from google.protobuf import json_format

from fullconv.common.files import OutputError, atomic_write
from fullconv.protos import model_pb2
from service import machine
from service.engine.backend import Backend
from service.engine.cache_directory import cache_directory
from service.engine.repository import StoredModel

PACKAGES = ("fullconv", "onnxruntime", "onnxruntime-gpu", "openvino")
"""The packages whose release affects a choice."""


@dataclass(frozen=True)
class KeptChoice:
    """The backend of a file, and the difference of its scores from those of fp32 on the CPU."""

    backend: Backend
    difference: model_pb2.Difference


def key(model: StoredModel, position: int, backends: Sequence[Backend], threads: int | None = None) -> str:
    """Return the name of a choice: a hash of everything that it depends on."""
    graph = (model.folder / model.files[position]).read_bytes()
    depends_on = [
        hashlib.sha256(graph).hexdigest(),
        model.spec.weights_sha256,
        machine.processor(),
        [machine.cpus(), threads],
        [str(backend) for backend in backends],
        [_version(package) for package in PACKAGES],
    ]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()


def read(name: str) -> KeptChoice | None:
    """Return a choice; None if it is not known."""
    try:
        kept = json.loads(_path(name).read_text("utf-8"))
        found = json_format.ParseDict(kept["difference"], model_pb2.Difference())
        return KeptChoice(Backend(kept["provider"], kept["precision"]), found)
    except (OSError, ValueError, KeyError, TypeError, json_format.ParseError):
        return None


def write(name: str, choice: KeptChoice) -> None:
    """Keep a choice, if the directory can be written."""
    document = {
        "provider": choice.backend.provider,
        "precision": choice.backend.precision,
        "difference": json_format.MessageToDict(choice.difference),
    }
    with suppress(OSError, OutputError):
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(document).encode())


def _path(name: str) -> Path:
    """Return the file of a choice; raises FileNotFoundError if this user has no cache directory."""
    directory = cache_directory()
    if directory is None:
        raise FileNotFoundError("~/.cache")
    return directory / "backends" / f"{name}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
