"""One call of a client."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """What is known of a call, and its line of the log, which grows while the call is answered."""

    method: str
    client: str
    """The client's name, from its token or certificate; else its address without the port."""
    connection: str = ""
    """The caller's address with the port, which is different for each connection."""
    size: int = 0
    """Bytes of the last message that arrived."""
    deadline: float | None = None
    """When the client stops waiting, on the monotonic clock. None: never."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Key-value pairs that the client sent with the call."""
    record: dict[str, Any] = field(default_factory=dict)
    """The fields of its line of the log."""
