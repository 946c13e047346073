"""Imports PyTorch and Keras when a source needs them: they are not part of the base installation."""

import importlib
import importlib.util
import sys
from types import ModuleType

from converter.errors import SourceError
from converter.messages import one_line

PYTORCH = "pip install torch torchvision onnxscript"


def framework(name: str, packages: str, reader: str) -> ModuleType:
    """Import a package that a reader needs; raises SourceError that says what to install if the import fails."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation may raise any error
        reason = "which is not installed" if _is_missing(error, name) else f"which fails: {one_line(error)}"
        raise SourceError(f"{reader} needs {name}, {reason}: {packages}") from None


def is_installed(name: str) -> bool:
    """Return whether a package can be found; it is not imported."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _is_missing(error: Exception, name: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == name
