"""Places that are URLs, such as s3://bucket/folder, and places that are paths of this machine."""

import re

from fullconv.errors import RequestError

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""Matches the beginning of a URL."""
PASSWORD = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://(?P<user>[^/:@]*):[^/@]*@", re.IGNORECASE)
"""Matches the beginning of a URL that has a password."""


def is_url(place: str) -> bool:
    """Return whether a place is a URL."""
    return URL.match(place) is not None


def check_no_password(url: str) -> None:
    """Raise RequestError if a URL has a password: the job and its results keep the URLs, and messages show them."""
    if found := PASSWORD.match(url):
        protocol, user = found["protocol"], found["user"]
        raise RequestError(
            f"{protocol}://{user}:…@{url[found.end() :]}: expected a URL without a password, which the results would "
            f"show; set the variable FSSPEC_{protocol.upper()}_PASSWORD"
        )
