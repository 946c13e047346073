"""Checks of the names of outputs, before anything is scored."""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import typer

from fullconv.command.image_table import WRITERS
from fullconv.command.outputs import STEM, Outputs, mask_path
from fullconv.common.files import BOX_SUFFIXES, GRID_SUFFIXES, HEATMAP_SUFFIXES, PAGE_SUFFIXES, errors_of
from fullconv.common.text import printable
from fullconv.grids.zarr import is_grid

OPTIONS = "--grid, --heatmap, --boxes, --html and --table"


def check_outputs(outputs: Outputs, images: list[Path], mask: str | None = None) -> None:
    """Exit with status 2 for unknown formats, and for outputs that would replace other outputs, inputs or folders.

    `mask` is the name of the masks, which may contain STEM. Raises OutputError for a folder that cannot be read.
    """
    for name in outputs.names:
        if len(images) > 1 and STEM not in name:
            raise typer.BadParameter(
                f"expected {STEM} in the name, since there are {len(images)} images, got {name!r}", param_hint=OPTIONS
            )
    _check_suffixes("--grid", outputs.grids, GRID_SUFFIXES)
    _check_suffixes("--heatmap", outputs.heatmaps, HEATMAP_SUFFIXES)
    _check_suffixes("--boxes", outputs.boxes, BOX_SUFFIXES)
    _check_suffixes("--html", outputs.pages, PAGE_SUFFIXES)
    _check_suffixes("--table", [outputs.table] if outputs.table is not None else [], tuple(WRITERS))
    paths = list(outputs.all_paths(images))
    _check_distinct(paths)
    masks = [] if mask in (None, "otsu") else [mask_path(mask, image) for image in images]
    known = {identity for path in (*images, *masks) if (identity := _identity(path))}
    for path, _ in paths:
        with errors_of(path):
            is_refused = path.exists() and (not _may_be_replaced(path) or _identity(path) in known)
        if is_refused:
            raise typer.BadParameter(
                f"expected a new file or an output to replace, got {printable(str(path))}, which is an image or a "
                "mask of this command, or no regular file",
                param_hint=OPTIONS,
            )


def _check_distinct(paths: Iterable[tuple[Path, str]]) -> None:
    """Refuse two outputs of the same place; `paths` are their paths, and the images that they belong to.

    A file that is a link is replaced itself, so that only links to folders are followed.
    """
    owners: dict[Path, str] = {}
    folder_of = cache(os.path.realpath)  # there may be very many files in a folder
    for path, owner in paths:
        place = Path(folder_of(path.parent), path.name)
        if place in owners:
            raise typer.BadParameter(
                f"expected a different file for every image and output, got {printable(str(path))} for "
                f"{printable(owners[place])} and for {printable(owner)}; put {STEM} into the names, keep images of the "
                "same name in different folders and use --output-dir, or score them in separate commands",
                param_hint=OPTIONS,
            )
        owners[place] = owner


def _check_suffixes(option: str, names: Iterable[str], suffixes: tuple[str, ...]) -> None:
    """Refuse a file name whose suffix is not that of an offered format."""
    for name in names:
        if Path(name).suffix.lower() not in suffixes:
            raise typer.BadParameter(
                f"expected a file name that ends in {' or '.join(suffixes)}, got {name!r}", param_hint=option
            )


def _may_be_replaced(path: Path) -> bool:
    """Return whether an output may replace what is there: a file, or a Zarr folder of an earlier run."""
    return path.is_file() or (path.suffix.lower() == ".zarr" and is_grid(path))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file, or None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
