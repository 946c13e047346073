"""The user's cache directory, which the XDG Base Directory Specification names."""

import os
from pathlib import Path


def cache_directory() -> Path | None:
    """Return the directory for files that can be made again; None if this user has no such directory."""
    for cache in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):  # noqa: PTH111 (raises nothing)
        if Path(cache).is_absolute():
            return Path(cache, "fullconv")
    return None
