"""PyTorch and Keras, which are not part of the base installation: they are imported when a source needs them."""

import importlib
from types import ModuleType

from converter.errors import SourceError
from converter.messages import one_line

PYTORCH = "pip install torch torchvision onnxscript"


def framework(name: str, packages: str, reader: str) -> ModuleType:
    """Import a package that a reader needs; raises SourceError, with what to install, if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation fails in any way
        reason = "which is not installed" if _is_missing(error, name) else f"which fails: {one_line(error)}"
        raise SourceError(f"{reader} needs {name}, {reason}: {packages}") from None


def _is_missing(error: Exception, name: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == name
