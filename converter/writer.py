"""Writing a version: all of it or nothing.

Files are made in a hidden folder beside the target, which then takes the target's name. With `force` the old version
stands until the new one is whole, and is put back if the exchange fails.
"""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from converter.errors import OutputError
from protos.spec import MODEL, REPORT


@contextlib.contextmanager
def staging(target: Path, *, force: bool) -> Iterator[Path]:
    """Give a folder to write into, and make it `target` at the end; on any error nothing is left but what was there.

    Raises OutputError if the target exists, or cannot be written.
    """
    target = target.resolve()
    check_target(target, force=force)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True)
        yield folder
        _replace(folder, target, force=force)
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(folder.parent):
            raise  # of something else that was read or written
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}; choose another -o") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()


def check_target(target: Path, *, force: bool) -> None:
    """Raise OutputError if something is there that must not be replaced."""
    if target.exists() and not force:
        raise OutputError(f"{target}: exists already; choose the next version, or replace it with --force")
    if target.exists() and not all((target / name).is_file() for name in (MODEL, REPORT)):
        raise OutputError(f"{target}: expected a converted model to replace, got something else; remove it by hand")


def check_outside(source: Path, target: Path) -> None:
    """Raise OutputError if the source lies where it would be replaced."""
    if source.resolve().is_relative_to(target.resolve()):
        raise OutputError(f"{target}: the source {source} lies in it and would be lost; choose another -o")


def _replace(folder: Path, target: Path, *, force: bool) -> None:
    check_target(target, force=force)
    if not target.exists():
        folder.rename(target)
        return
    old = folder.with_name(f"{folder.name}.old")
    target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
