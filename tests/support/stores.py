"""A place for results in memory."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class MemoryStore:
    """Results by their names."""

    files: dict[str, bytes] = field(default_factory=dict)

    def names(self, folder: str) -> set[str]:
        """Return the names in a folder."""
        below = [name.removeprefix(f"{folder}/".lstrip("/")) for name in self.files if name.startswith(folder)]
        return {name.split("/")[0] for name in below}

    def read(self, name: str) -> bytes | None:
        """Return a file's content."""
        return self.files.get(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self.files[name] = data

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether it was written."""
        if name in self.files:
            return False
        self.files[name] = data
        return True

    def remove_folder(self, folder: str) -> None:
        """Remove the files of a folder."""
        self.files = {name: data for name, data in self.files.items() if not name.startswith(f"{folder}/")}

    def output(self, name: str) -> AbstractContextManager[Path]:
        """Yield a path that is never written."""
        return nullcontext(Path(name))
