"""Score images of any size with classifiers that were trained on small windows.

    from fullconv import Client, Scorer

    answer = Scorer("models").score("page.png", model="digits")  # in this process
    with Client("127.0.0.1:8500") as client:                     # on a server, fullconv-serve
        answer = client.score("page.png", model="digits")

Each name is loaded when it is first used, so that the client alone needs neither ONNX Runtime nor the converter.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullconv.answer import Answer
    from fullconv.averages import AreaAverage, Entry
    from fullconv.common.files import OutputError
    from fullconv.common.programs import MisplacedProgramError
    from fullconv.conversion import convert
    from fullconv.description import ModelDescription
    from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
    from fullconv.objects.detected import DetectedObject
    from fullconv.objects.finder import find_objects
    from fullconv.objects.found import DetectedObjects
    from fullconv.remote.aio import AsyncClient, AsyncScoreStream
    from fullconv.remote.client import Client
    from fullconv.remote.security import Security
    from fullconv.scorer import Scorer
    from fullconv.stream import ScoreStream
    from fullconv.style import HeatmapStyle

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AreaAverage",
    "AsyncClient",
    "AsyncScoreStream",
    "Client",
    "DetectedObject",
    "DetectedObjects",
    "Entry",
    "HeatmapStyle",
    "ImageError",
    "MisplacedProgramError",
    "ModelDescription",
    "OutputError",
    "RequestError",
    "ScoreStream",
    "Scorer",
    "ScoringError",
    "Security",
    "UnavailableError",
    "__version__",
    "convert",
    "find_objects",
]

_MODULES = {
    "Answer": "fullconv.answer",
    "AreaAverage": "fullconv.averages",
    "AsyncClient": "fullconv.remote.aio",
    "AsyncScoreStream": "fullconv.remote.aio",
    "Client": "fullconv.remote.client",
    "DetectedObject": "fullconv.objects.detected",
    "DetectedObjects": "fullconv.objects.found",
    "Entry": "fullconv.averages",
    "HeatmapStyle": "fullconv.style",
    "ImageError": "fullconv.errors",
    "MisplacedProgramError": "fullconv.common.programs",
    "ModelDescription": "fullconv.description",
    "OutputError": "fullconv.common.files",
    "RequestError": "fullconv.errors",
    "ScoreStream": "fullconv.stream",
    "Scorer": "fullconv.scorer",
    "ScoringError": "fullconv.errors",
    "Security": "fullconv.remote.security",
    "UnavailableError": "fullconv.errors",
    "convert": "fullconv.conversion",
    "find_objects": "fullconv.objects.finder",
}
"""The module that defines each public name."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    """Load a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fullconv' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
