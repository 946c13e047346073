"""Writes all files of a version, or none.

Files are written into a hidden folder beside the target, which is then renamed to the target. With `force` the old
version stays until the new version is complete, and is restored if the exchange fails. After a process was killed, the
next conversion into the same directory restores the old version and removes the folder. Refused: a target that holds
other files than those of the converter.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

from converter.errors import OutputError
from fullconv.common.model_files import CUT_MODEL, LABELS, MODEL, REPORT, SHARED_MODEL, STRIDE_MODEL, WEIGHTS
from fullconv.common.temporary import announce, remove_leftovers, replace_folder, temporary

WRITTEN = re.compile(
    "|".join(map(re.escape, (MODEL, STRIDE_MODEL, SHARED_MODEL, CUT_MODEL, WEIGHTS, LABELS, REPORT))).replace(
        re.escape("{}"), "[0-9]+(x[0-9]+)?"
    )
)
"""Matches the names of the files of a version."""


@contextlib.contextmanager
def staging(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield a folder for the files, which becomes `target` at the end; after an error nothing is changed.

    Raises OutputError if the target exists and must not be replaced, or if it cannot be written.
    """
    target = target.resolve()
    remove_leftovers(target.parent)
    check_target(target, force=force)
    missing = [parent for parent in target.parents if not parent.exists()]
    for parent in reversed(missing):
        announce(parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary(target, Path.mkdir) as folder:
            yield folder
            _replace(folder, target, force=force)
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(target.parent):
            raise  # an error of another file that was read or written
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}; choose another -o") from None
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()


def check_target(target: Path, *, force: bool) -> None:
    """Raise OutputError if a target exists that must not be replaced; an empty directory holds no version."""
    parent = next(parent for parent in target.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise OutputError(f"{target}: expected a folder for the version, got the file {parent}; choose another -o")
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() and not force:
        raise OutputError(
            f"{target}: expected a new version, got an existing version; choose the next version, or give --force"
        )
    if not target.exists():
        return
    if not all((target / name).is_file() for name in (MODEL, REPORT)):
        raise OutputError(f"{target}: expected a converted model to replace, got something else; remove it by hand")
    _check_written(target, target)


def check_outside(target: Path, inputs: Mapping[str, str | PathLike[str] | None]) -> None:
    """Raise OutputError if an input lies in the folder that would be replaced; `inputs` names the role of each path."""
    for what, path in inputs.items():
        if path is not None and Path(path).exists() and Path(path).resolve().is_relative_to(target.resolve()):
            raise OutputError(f"{target}: {what} {path} lies in it and would be lost; choose another -o")


def _check_written(folder: Path, target: Path) -> None:
    """Raise OutputError, naming the target, if a version's folder holds a file that the converter does not write."""
    for path in sorted(folder.iterdir()):
        if not WRITTEN.fullmatch(path.name) or not path.is_file():
            raise OutputError(
                f"{target}: expected only files that the converter has written, got {path.name!r}, which --force would "
                "delete; move it elsewhere, or choose another -o"
            )


def _replace(folder: Path, target: Path, *, force: bool) -> None:
    """Rename a folder to the target; an old version is restored if that fails."""
    check_target(target, force=force)
    replace_folder(folder, target, lambda old: _check_written(old, target))  # a file may have been added meanwhile
