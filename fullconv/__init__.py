"""Score images of any size with classifiers that were trained on small windows.

    from fullconv import Client, Scorer

    with Client("127.0.0.1:8500") as client:                    # on a fullconv-serve
        answer = client.score("page.png", model="digits")
    answer = Scorer("models").score("page.png", model="digits")  # in this process

Each name is loaded when it is first used, so that the client alone needs neither ONNX Runtime nor the converter.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullconv.answer import Answer, Entry
    from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
    from fullconv.remote.aio import AsyncClient
    from fullconv.remote.client import Client
    from fullconv.remote.connection import Security

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Entry",
    "ImageError",
    "RequestError",
    "ScoringError",
    "Security",
    "UnavailableError",
    "__version__",
]

_MODULES = {
    "Answer": "fullconv.answer",
    "AsyncClient": "fullconv.remote.aio",
    "Client": "fullconv.remote.client",
    "Entry": "fullconv.answer",
    "ImageError": "fullconv.errors",
    "RequestError": "fullconv.errors",
    "ScoringError": "fullconv.errors",
    "Security": "fullconv.remote.connection",
    "UnavailableError": "fullconv.errors",
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
