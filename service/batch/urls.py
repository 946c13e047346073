"""Places that are URLs, such as s3://bucket/folder, and places that are paths of this machine."""

import re

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""Matches the beginning of a URL."""


def is_url(place: str) -> bool:
    """Return whether a place is a URL."""
    return URL.match(place) is not None
