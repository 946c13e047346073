"""Changes to zip archives that hold checkpoints and networks."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """Copy an archive, and let `change` modify its entries, a mapping of name to content; returns the target."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target


def edit(entries: dict[str, bytes], ending: str, change: Callable[[Any], object]) -> None:
    """Modify the JSON document in the only entry whose name has this ending."""
    (name,) = [name for name in entries if name.endswith(ending)]
    document = json.loads(entries[name])
    change(document)
    entries[name] = json.dumps(document).encode()
