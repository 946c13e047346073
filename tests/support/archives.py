"""Zip archives of checkpoints and networks, taken apart and put together with changes."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """Copy an archive after changing its entries, by name."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target


def edit(entries: dict[str, bytes], ending: str, change: Callable[[Any], object]) -> None:
    """Change the JSON of the entry whose name ends so."""
    (name,) = [name for name in entries if name.endswith(ending)]
    document = json.loads(entries[name])
    change(document)
    entries[name] = json.dumps(document).encode()
