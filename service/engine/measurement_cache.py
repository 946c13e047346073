"""Keeps measurements of ONNX files in the user's cache directory, so that each is made once.

A measurement is valid for the same files, processors, releases and further conditions, such as the number of threads. A
measurement that cannot be read or written is made again.
"""

import hashlib
import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fullconv import __version__
from fullconv.common.files import OutputError, atomic_write
from service import machine
from service.engine.cache_directory import cache_directory
from service.engine.repository import StoredModel

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino")
"""The packages whose release affects a measurement, beside this one, which need not be installed."""


def key(model: StoredModel, position: int, *more: object) -> str:
    """Return the name of a measurement: a hash of everything that it depends on; `more` can be written as JSON."""
    graph = (model.folder / model.files[position]).read_bytes()
    return machine_key(hashlib.sha256(graph).hexdigest(), model.spec.weights_sha256, *more)


def machine_key(*more: object) -> str:
    """Return the name of a measurement that no model affects."""
    releases = [__version__, *(_version(package) for package in PACKAGES)]
    depends_on = [machine.processor(), machine.cpus(), releases, *more]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()


def read(kind: str, name: str) -> Any:  # noqa: ANN401 (the callers check what they read)
    """Return the document with a name; None if the cache does not have it."""
    try:
        return json.loads(_path(kind, name).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write(kind: str, name: str, document: dict[str, Any]) -> None:
    """Keep a document of a kind, if the directory can be written."""
    with suppress(OSError, OutputError):
        path = _path(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(document).encode())


def _path(kind: str, name: str) -> Path:
    """Return the file of a document; raises FileNotFoundError if this user has no cache directory."""
    directory = cache_directory()
    if directory is None:
        raise FileNotFoundError("~/.cache")
    return directory / kind / f"{name}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
