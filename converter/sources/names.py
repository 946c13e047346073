"""The names that --arch accepts for networks, and the names that are nearest to a mistyped one."""

import difflib
from pathlib import Path

from converter.errors import SourceError, UnknownHeadError
from converter.sources.architecture import shipped_name, shipped_names
from converter.sources.fingerprints import SHOWN, known_networks, recognise_module
from converter.sources.heads import Shapes
from converter.sources.torch_libraries import MODULE, TORCHVISION

SUFFIX = ".toml"
LISTS = (
    "docs/architectures.md lists the names that need no PyTorch; torchvision.models.list_models() and "
    "timm.list_models() list the other names"
)


def resolved_name(arch: str, shapes: Shapes) -> str:
    """Return what --arch means: "torchvision:NAME" or "timm:NAME" for a plain NAME, other choices unchanged.

    If both libraries have a network of this name, the names and shapes of the checkpoint's tensors decide. Raises
    SourceError, with the nearest names, if there is neither such a network nor such a file, or if the tensors are those
    of another network.
    """
    path = Path(arch)
    if shipped_name(arch):
        _check_network(arch, shapes)
        return arch
    if ":" in arch or (_exists(path) and not path.is_dir()):
        return arch
    if arch.lower().endswith(SUFFIX) or len(path.parts) != 1:
        raise _no_file(arch, path)
    return _of_library(arch, shapes)


def names_module(arch: str) -> bool:
    """Return whether --arch names a module instead of a file."""
    return MODULE.fullmatch(arch) is not None and not _exists(Path(arch))


def _of_library(name: str, shapes: Shapes) -> str:
    """Return the network of torchvision or timm that has a name, and the tensors if several have the name."""
    named = sorted({network for network in known_networks() if network.partition(":")[2] == name})
    if not named:
        raise _no_network(name)
    if len(named) > 1:
        _, found = recognise_module(shapes)
        named = [network for network in named if network in found] or named
    if len(named) > 1:
        choices = " or ".join(f"--arch {network}" for network in named)
        raise SourceError(
            f"arch: expected one network, got {name!r}, which names {' and '.join(named)}; give {choices}"
        )
    return named[0]


def _check_network(name: str, shapes: Shapes) -> None:
    """Raise SourceError if a name is one of torchvision's, and the tensors are those of another known network.

    An architecture file may describe both.
    """
    try:
        _, found = recognise_module(shapes)
    except UnknownHeadError:  # the architecture file says how to state the head
        return
    named = f"{TORCHVISION}:{name}"
    if found and named not in found and named in known_networks():
        names = " or ".join(found[:SHOWN])
        raise SourceError(f"arch: expected the tensors of {name}, got those of {names}; leave --arch out")


def _no_file(arch: str, path: Path) -> SourceError:
    """Return the error for a file that does not exist, with the nearest files of its folder."""
    got = f"arch: expected a TOML file, got {arch!r}, which is no file"
    if not _exists(path.parent) or not path.parent.is_dir():
        return SourceError(f"{got}; the folder {path.parent} does not exist")
    files = {file.stem: str(file) for file in path.parent.glob(f"*{SUFFIX}")}
    near = [files[name] for name in difflib.get_close_matches(path.stem, files)]
    near += [path.stem] if shipped_name(path.stem) else []
    return SourceError(f"{got}; nearest: {', '.join(near)}" if near else f"{got}; {LISTS}")


def _no_network(arch: str) -> SourceError:
    """Return the error for a name that no network has, with the nearest names."""
    names = {*shipped_names(), *(network.partition(":")[2] for network in known_networks())}
    near = ", ".join(difflib.get_close_matches(arch.lower(), sorted(names)))
    nearest = f"nearest: {near}; " if near else ""
    return SourceError(f"arch: expected the name of a network or a TOML file, got {arch!r}; {nearest}{LISTS}")


def _exists(path: Path) -> bool:
    """Return whether a file or folder exists. The file system may refuse to look for a name that is too long."""
    try:
        return path.exists()
    except OSError:
        return False
