"""Keeps the choices of backends, so that each is measured once."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import json_format

from fullconv.protos import model_pb2
from service.engine import measurement_cache
from service.engine.backend import Backend
from service.engine.repository import StoredModel

KIND = "backends"


@dataclass(frozen=True)
class KeptChoice:
    """The backend of a file, and the difference of its scores from those of fp32 on the CPU."""

    backend: Backend
    difference: model_pb2.Difference


def key(model: StoredModel, position: int, backends: Sequence[Backend], threads: int = 1) -> str:
    """Return the name of a choice."""
    return measurement_cache.key(model, position, threads, [str(backend) for backend in backends])


def read(name: str) -> KeptChoice | None:
    """Return a choice; None if it is not known."""
    kept = measurement_cache.read(KIND, name)
    try:
        found = json_format.ParseDict(kept["difference"], model_pb2.Difference())
        return KeptChoice(Backend(kept["provider"], kept["precision"]), found)
    except (KeyError, TypeError, json_format.ParseError):
        return None


def write(name: str, choice: KeptChoice) -> None:
    """Keep a choice, if the directory can be written."""
    document = {
        "provider": choice.backend.provider,
        "precision": choice.backend.precision,
        "difference": json_format.MessageToDict(choice.difference),
    }
    measurement_cache.write(KIND, name, document)
