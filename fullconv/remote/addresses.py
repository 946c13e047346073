"""Addresses of servers."""

import re

from fullconv.errors import RequestError

ADDRESS = re.compile(r"(dns:///)?(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]/,]+):(?P<port>[0-9]{1,5})")


def addresses(server: str) -> list[str]:
    """Parse "HOST:PORT,HOST:PORT"; raises RequestError for anything else."""
    names = [name.strip() for name in str(server).split(",")]
    for name in names:
        match = ADDRESS.fullmatch(name)
        if not match or int(match["port"]) > 65535:
            raise RequestError(f"server: expected HOST:PORT, or several separated by commas, got {server!r}")
    return names
