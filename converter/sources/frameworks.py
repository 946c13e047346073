"""PyTorch and Keras, which the base installation leaves out: imported when a source needs them, and kept quiet."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType

from converter.errors import SourceError
from converter.runtime import one_line

PYTORCH = "pip install torch torchvision onnxscript"


def framework(name: str, packages: str, reader: str) -> ModuleType:
    """Import a package; raises SourceError that says what to install for what, if it is not there or does not load."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation fails in any way
        reason = "which is not installed" if _is_missing(error, name) else f"which fails: {one_line(error)}"
        raise SourceError(f"{reader} needs {name}, {reason}: {packages}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and log lines, and with what is printed on standard error, for --json's sake."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(disabled)


def reason(error: BaseException) -> str:
    """The first cause of an error, on one line: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) if isinstance(error, Exception) and str(error) else type(error).__name__


def _is_missing(error: Exception, name: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == name
