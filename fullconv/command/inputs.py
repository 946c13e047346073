"""The images that the arguments of the command line name: files, folders, and patterns.

folder      the images in it and in its sub-folders
pattern     the images, and the images in the folders, that it matches; in quotes, since a shell may lack `**`
all else    an image

In folders and patterns, files are images by their suffixes. Names that begin with a dot and the folder of the outputs
are left out. Other files and links to folders, which may form loops, are skipped and counted. A folder that is an
image, such as a Zarr array, is one image. A folder that cannot be read is listed among the images, so that the attempt
to score it reports the reason.
"""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from fullconv.common.image_suffixes import IMAGE_SUFFIXES
from fullconv.common.text import counted
from fullconv.errors import ImageError
from fullconv.grids.zarr import is_grid
from fullconv.images import is_image_folder

WILDCARDS = frozenset("*?[")


@dataclass
class Inputs:
    """The images to score, in the order of the arguments; those of a folder or a pattern are sorted by their paths."""

    images: list[Path] = field(default_factory=list)
    folders: dict[Path, Path] = field(default_factory=dict)
    """The folder of each image that was found, relative to the argument, or to the part of a pattern before the first
    wildcard. Such an image is listed once, even if several arguments name it."""
    others: int = 0
    """Number of other files that were skipped, and of folders of grids."""
    links: int = 0
    """Number of links to folders that were skipped."""

    @property
    def skipped(self) -> str:
        """The numbers of other files and of links in words; empty if nothing was skipped."""
        links = "1 link to a folder" if self.links == 1 else f"{self.links} links to folders"
        others = counted(self.others, "other file")
        return ", ".join([*([others] if self.others else []), *([links] if self.links else [])])

    def add(self, argument: Path, output_dir: Path | None = None) -> None:
        """Add the images that an argument names; raises ImageError for a folder or a pattern without images."""
        if _is_folder_of_images(argument):
            base, entries = argument, [argument]
        elif _is_pattern(argument):
            base, entries = _matches(argument)
        else:
            if argument not in self.folders:
                self.images.append(argument)
            return
        found, others, links = _search(base, entries, output_dir)
        if not found:
            raise ImageError(
                f"{argument}: expected at least one image, got {counted(others, 'other file')}; images are found by "
                "suffixes such as .jpg, .png, .tif and .npy"
            )
        listed = set(self.images)
        for path in found:
            if path not in listed:
                self.images.append(path)
                self.folders[path] = Path() if path == base else path.parent.relative_to(base)
        self.others += others
        self.links += links


def find_images(arguments: Sequence[Path], output_dir: Path | None = None) -> Inputs:
    """Return the images that arguments name; raises ImageError for a folder or a pattern without images."""
    inputs = Inputs()
    for argument in arguments:
        inputs.add(argument, output_dir)
    return inputs


class _Kind(Enum):
    """What an entry of a folder is."""

    IMAGE = "image"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


def _search(base: Path, entries: Sequence[Path], output_dir: Path | None) -> tuple[list[Path], int, int]:
    """Return the images among entries and in their folders, sorted, and the numbers of other files and of links."""
    outputs = _folder_below(base, output_dir)
    images, seen, pending, skipped = [], set(), list(entries), Counter[_Kind]()
    while pending:
        entry = pending.pop()
        if entry in seen or (outputs is not None and entry.is_relative_to(outputs)):
            continue
        seen.add(entry)
        kind = _Kind.FOLDER if entry == base else _kind_of(entry)
        if kind is _Kind.IMAGE:
            images.append(entry)
        elif kind is not _Kind.FOLDER:
            skipped[kind] += 1
        else:
            try:
                pending += [inner for inner in entry.iterdir() if not inner.name.startswith(".")]
            except OSError:
                images.append(entry)
    return sorted(images, key=lambda path: path.parts), skipped[_Kind.OTHER], skipped[_Kind.LINK]


def _kind_of(path: Path) -> _Kind:
    """Return what an entry of a folder is. A link that leads nowhere is a file, which cannot be scored."""
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        return _kind_of_folder(path)
    is_image = stat.S_ISREG(mode) and path.suffix.lower() in IMAGE_SUFFIXES
    return _Kind.IMAGE if is_image else _Kind.OTHER


def _kind_of_folder(path: Path) -> _Kind:
    with suppress(PermissionError):  # raised again when the folder is listed
        if is_image_folder(path):
            return _Kind.OTHER if is_grid(path) else _Kind.IMAGE
    return _Kind.LINK if path.is_symlink() else _Kind.FOLDER


def _is_folder_of_images(path: Path) -> bool:
    """Return whether an argument is a folder, or a link to a folder, that is no image."""
    try:
        return path.is_dir() and not is_image_folder(path)
    except OSError:
        return False  # the attempt to score it reports the reason


def _is_pattern(path: Path) -> bool:
    """Return whether an argument has wildcards, and is not the name of a file."""
    try:
        return not WILDCARDS.isdisjoint(str(path)) and not path.exists()
    except OSError:
        return False


def _matches(argument: Path) -> tuple[Path, list[Path]]:
    """Return the folder before the first wildcard of a pattern, and what the pattern matches.

    Hidden names match only if a part of the pattern begins with a dot.
    """
    first = next(number for number, part in enumerate(argument.parts) if not WILDCARDS.isdisjoint(part))
    base, pattern = Path(*argument.parts[:first]), Path(*argument.parts[first:])
    try:
        found = list(base.glob(str(pattern)))
    except ValueError as error:
        raise ImageError(f"{argument}: expected a pattern of file names: {error}") from None
    found = [path for path in found if not _is_inside_image(path, base)]
    if _has_hidden(pattern):
        return base, found
    return base, [path for path in found if not _has_hidden(path.relative_to(base))]


def _is_inside_image(path: Path, base: Path) -> bool:
    """Return whether a folder between the base and the path is an image, or a grid."""
    between = (each for each in path.parents if each != base and each.is_relative_to(base))
    return any(is_image_folder(each) or is_grid(each) for each in between)


def _has_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _folder_below(base: Path, folder: Path | None) -> Path | None:
    """Return a folder as a path below `base`, or None if it is not below it."""
    if folder is None:
        return None
    top, real = Path(os.path.realpath(base)), Path(os.path.realpath(folder))
    return base / real.relative_to(top) if real != top and real.is_relative_to(top) else None
