"""The types of settings: addresses, paths, counts, sizes and durations, with the values that are valid."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")


def _address(value: str) -> str:
    match = ADDRESS.fullmatch(value)
    if not match or int(match["port"]) > 65535:
        raise ValueError("expected HOST:PORT or [IPV6]:PORT")
    return value


def _check_path(value: object) -> object:
    """Return a path; raises ValueError for an empty one, which pathlib would interpret as the current directory."""
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError("expected a path")
    return value


Address = Annotated[str, AfterValidator(_address)]
NonemptyPath = Annotated[Path, BeforeValidator(_check_path)]
Count = Annotated[int, Field(ge=1)]
Mib = Annotated[int, Field(ge=1, le=1 << 30)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]


def is_loopback(address: str) -> bool:
    """Return whether HOST:PORT is a loopback address, which only this machine reaches."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
