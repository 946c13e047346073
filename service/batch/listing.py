r"""The images of a job, as a table: what the arguments and the list of `fullconv-batch` name.

path    the image, as the arguments or the list name it; \x and two digits stand for a byte that is not UTF-8
bytes   size of the file; null for folders, and for files that cannot be found
modified_or_etag
        time of the file's last modification in UTC, or what a bucket states in its place, such as an ETag; null where
        neither is known, as for URLs in a list
grid    where the image's grid lies below `grids/`, without the suffix of the format

Further columns are carried from the list to the results. The images of a folder, a pattern or a URL are sorted.
Images that would share a grid's place, also on file systems that ignore the case of letters, get a hash in its name.
"""

import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fullconv.command.inputs import WILDCARDS, find_images
from fullconv.common.image_suffixes import IMAGE_SUFFIXES
from fullconv.common.text import counted
from fullconv.errors import ImageError, RequestError
from service.batch.image_list import read_list
from service.batch.retries import retry
from service.batch.stores import filesystem_of
from service.batch.urls import URL, check_no_password, is_url
from service.batch.work import SUFFIXES

PATH, BYTES, MODIFIED, GRID = "path", "bytes", "modified_or_etag", "grid"
MAX_NAME_BYTES = 180
"""Bytes of the longest name of a grid without its suffix."""
OWN = pa.schema({PATH: pa.string(), BYTES: pa.int64(), MODIFIED: pa.string(), GRID: pa.string()})
STATED = ("md5Hash", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""Entries in the listings of fsspec's stores that change with a file, the most exact first."""


@dataclass(frozen=True)
class Listing:
    """The images of a job, or a part of them."""

    table: pa.Table
    """The columns of OWN, and those that the list carries."""
    raw: dict[str, str] = field(default_factory=dict)
    """The path by which the system knows an image, for paths that UTF-8 cannot encode."""
    skipped: int = 0
    """Number of files that are no images, and of links to folders."""

    @property
    def paths(self) -> list[str]:
        """The path of every image."""
        return list(self.table[PATH].to_pylist())

    @property
    def has_urls(self) -> bool:
        """Whether an image is in a store."""
        return bool(pc.any(pc.match_substring_regex(self.table[PATH], f"^{URL.pattern}", ignore_case=True)).as_py())

    @property
    def carried(self) -> pa.Table:
        """The columns that the list carries."""
        return self.table.select([name for name in self.table.column_names if name not in OWN.names])


@dataclass(frozen=True)
class _Found:
    """An image that was found."""

    location: str
    """Its path or URL."""
    size: int | None
    modified: str | None
    below: str
    """Its path below the argument that named it, with "/" between its parts."""


def list_images(arguments: Sequence[str], *, include: Sequence[str] = (), out: str = "") -> Listing:
    """Return the images that arguments name; `include` are patterns of the names in folders and buckets.

    An image counts once, where it is first named. The folder `out` is left out. Raises ImageError if an argument names
    no image, and RequestError for a URL whose backend is not installed.
    """
    found, skipped = _found(arguments, include, out)
    once: dict[str, _Found] = {}
    for each in found:
        once.setdefault(each.location, each)
    return _listing([*once.values()], None, skipped)


def list_listed(list_file: Path) -> Listing:
    """Return the images of a list, with its other columns; raises ImageError if it cannot be read or has no image."""
    paths, carried = read_list(list_file)
    if not paths:
        raise ImageError(f"list: expected at least one image in {list_file}, got none")
    return _listing([_listed(path) for path in paths], carried, 0)


def _found(arguments: Sequence[str], include: Sequence[str], out: str) -> tuple[list[_Found], int]:
    """Return the images of all arguments, and the number of files that were skipped."""
    found: list[_Found] = []
    skipped = 0
    for argument in arguments:
        images, others = _in_bucket(argument, out) if is_url(argument) else _in_folders(argument, out)
        chosen = [each for each in images if each.location == argument or _is_included(each, include)]
        if not chosen:
            raise ImageError(
                f"{argument}: expected at least one image, got {counted(others + len(images), 'other file')}"
                + (f"; --include {' '.join(include)} selects none" if include else "")
            )
        found += chosen
        skipped += others + len(images) - len(chosen)
    return found, skipped


def _is_included(found: _Found, include: Sequence[str]) -> bool:
    """Return whether a pattern matches the name of an image, or its path below the argument."""
    name = posixpath.basename(found.below)
    return not include or any(fnmatchcase(name, each) or fnmatchcase(found.below, each) for each in include)


def _in_folders(argument: str, out: str) -> tuple[list[_Found], int]:
    """Return the images that a path or a pattern of this machine names; raises ImageError if there is no such file."""
    path = Path(argument)
    if WILDCARDS.isdisjoint(argument) and not os.path.lexists(path):
        raise ImageError(f"{argument}: expected an image, a folder, a pattern or a URL, got no such file")
    inputs = find_images([path], None if not out or is_url(out) else Path(out))
    images = [
        _Found(str(path), *_state_of(path), (inputs.folders.get(path, Path()) / path.name).as_posix())
        for path in inputs.images
    ]
    return images, inputs.others + inputs.links


def _state_of(path: Path) -> tuple[int | None, str | None]:
    """Return the size of a file and its time; None if it is no file, or cannot be found."""
    try:
        state = path.stat()
    except OSError:
        return None, None
    if not stat.S_ISREG(state.st_mode):
        return None, None
    seconds, nanoseconds = divmod(state.st_mtime_ns, 10**9)
    return state.st_size, f"{np.datetime64(seconds, 's')}.{nanoseconds:09d}Z"


def _in_bucket(url: str, out: str) -> tuple[list[_Found], int]:
    """Return the images below a URL, or those that its pattern matches, without those of the results."""
    files, path = _opened(url)
    try:
        if WILDCARDS.isdisjoint(path):
            base, base_url, entries = path, url, retry(lambda: files.find(path, detail=True))
        else:
            base = posixpath.dirname(path[: min(path.index(each) for each in WILDCARDS if each in path)])
            base_url = url.removesuffix(path.removeprefix(base))
            entries = retry(lambda: files.glob(path, detail=True))
    except Exception as error:  # the backends of fsspec raise errors of many kinds
        raise ImageError(f"{url}: cannot be listed: {error}") from None
    results = _folder_in(files, out)
    places = [
        place for place, entry in sorted(entries.items()) if entry["type"] == "file" and not place.startswith(results)
    ]
    images = [place for place in places if _is_image(place) or [place] == places == [path]]
    found = [_in_store(place, base, base_url, entries[place]) for place in images]
    return found, len(places) - len(images)


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it; raises ImageError if a connection fails."""
    try:
        return retry(lambda: filesystem_of(url))
    except RequestError:
        raise
    except Exception as error:  # the backends of fsspec raise errors of many kinds
        raise ImageError(f"{url}: cannot be opened: {error}") from None


def _folder_in(files: Any, out: str) -> str | tuple[str, ...]:  # noqa: ANN401 (a file system)
    """Return the beginning of the places of results in a file system; an empty tuple if they are elsewhere."""
    if not is_url(out):
        return ()
    others, path = _opened(out)
    return f"{path.rstrip('/')}/" if others == files else ()


def _is_image(place: str) -> bool:
    return PurePosixPath(place).suffix.lower() in IMAGE_SUFFIXES


def _in_store(place: str, base: str, base_url: str, entry: Mapping[str, Any]) -> _Found:
    """Return an image of a store. Its URL begins as the user's: only there is the host of some stores."""
    below = posixpath.basename(place) if place == base else posixpath.relpath(place, base)
    modified = next((str(entry[name]) for name in STATED if entry.get(name) is not None), None)
    further = place.removeprefix(base)
    url = base_url.rstrip("/") + further if further.startswith("/") else base_url + further
    return _Found(url, entry.get("size"), modified, below)


def _listed(path: str) -> _Found:
    """Return an image of a list. The grids of images that are given by absolute paths or URLs keep their folders."""
    check_no_password(path)
    below = path.partition("://")[2] if is_url(path) else path
    size, modified = (None, None) if is_url(path) else _state_of(Path(path))
    return _Found(path, size, modified, below)


def _listing(found: Sequence[_Found], carried: pa.Table | None, skipped: int) -> Listing:
    paths = [_text(each.location) for each in found]
    if len(set(paths)) < len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise ImageError(f"images: expected names that differ as text too, got {twice!r} for two files; rename one")
    raw = {path: each.location for path, each in zip(paths, found, strict=True) if path != each.location}
    sizes, times = [each.size for each in found], [each.modified for each in found]
    own = [paths, sizes, times, list(_grid_places(found, paths))]
    columns = [pa.array(values, kind) for values, kind in zip(own, OWN.types, strict=True)]
    table = pa.Table.from_arrays(columns, schema=OWN)
    if carried is not None:
        for name in carried.column_names:
            if name in OWN.names:
                raise ImageError(f"list: expected other carried columns than {', '.join(OWN.names)}, got {name!r}")
            table = table.append_column(carried.schema.field(name), carried[name])
    return Listing(table, raw, skipped)


def _grid_places(found: Sequence[_Found], paths: Sequence[str]) -> Iterator[str]:
    """Yield the place of each image's grid."""
    places = [_safe(_text(each.below)) for each in found]
    counts = Counter(place.casefold() for place in places)
    folders = _folders(places)
    for place, path in zip(places, paths, strict=True):
        unique = counts[place.casefold()] == 1 and not _is_folder(place, folders)
        yield place if unique else f"{place}{_mark(path)}"


def free_places(places: Iterable[str], paths: Iterable[str], taken: Sequence[str]) -> Iterator[str]:
    """Yield the places of further grids, with a hash in those that exclude one of the places that are taken.

    Two places exclude each other if they are the same, or if the file of one is a folder of the other.
    """
    folders, known = _folders(taken), {place.casefold() for place in taken}
    for place, path in zip(places, paths, strict=True):
        *parents, name = place.split("/")
        for depth in range(len(parents)):
            if _is_grid("/".join(parents[: depth + 1]), known):
                parents[depth] += _mark(path)
        free = "/".join([*parents, name])
        yield f"{free}{_mark(path)}" if free.casefold() in known or _is_folder(free, folders) else free


def _folders(places: Iterable[str]) -> set[str]:
    """Return the folders of places, without the case of letters."""
    return {parent.as_posix().casefold() for place in places for parent in PurePosixPath(place).parents}


def _is_folder(place: str, folders: set[str]) -> bool:
    """Return whether the file of a grid in any format would be one of the folders."""
    return not folders.isdisjoint(f"{place.casefold()}{suffix}" for suffix in SUFFIXES.values())


def _is_grid(folder: str, places: set[str]) -> bool:
    """Return whether a folder would be the file of a grid in any format."""
    name = folder.casefold()
    return any(name.endswith(suffix) and name.removesuffix(suffix) in places for suffix in SUFFIXES.values())


def _mark(path: str) -> str:
    """Return what distinguishes the place of an image's grid from other places."""
    return f"~{sha256(path.encode()).hexdigest()[:8]}"


def _safe(place: str) -> str:
    """Return a relative path without "..", which stays below the folder of grids."""
    parts: Iterable[str] = posixpath.normpath(place.replace(os.sep, "/")).split("/")
    return "/".join(_shortened(part) for part in parts if part not in ("", ".", "..")) or "image"


def _shortened(part: str) -> str:
    """Return a name that leaves room for suffixes: file systems allow 255 bytes."""
    data = part.encode()
    if len(data) <= MAX_NAME_BYTES:
        return part
    return f"{data[:MAX_NAME_BYTES].decode(errors='ignore')}~{sha256(data).hexdigest()[:8]}"


def _text(name: str) -> str:
    r"""Return a name as text: \x and two digits stand for a byte that is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
