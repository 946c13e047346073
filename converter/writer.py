"""Writing a version: all of it or nothing.

    models/NAME/VERSION/model.onnx  weights.data  labels.txt  report.json

Files are made in a hidden folder beside the target, which then takes the target's name. With `force` the old version
stands until the new one is whole.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from converter.errors import OutputError


@contextlib.contextmanager
def staging(target: Path, *, force: bool) -> Iterator[Path]:
    """Give a folder to write into, and make it `target` at the end; on any error nothing is left but what was there.

    Raises OutputError if the target exists, or cannot be written.
    """
    check_target(target, force=force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}; choose another -o") from None
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        _replace(folder, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_target(target: Path, *, force: bool) -> None:
    """Raise OutputError if something is there that must not be replaced."""
    if target.exists() and not force:
        raise OutputError(f"{target}: exists already; choose the next version, or replace it with --force")
    if target.exists() and not (target / "model.onnx").is_file():
        raise OutputError(f"{target}: expected a converted model to replace, got something else; remove it by hand")


def _replace(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
    old = folder.with_name(f"{folder.name}.old")
    target.rename(old)
    folder.rename(target)
    shutil.rmtree(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
