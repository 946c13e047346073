"""One call of a client."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """The caller, deadline and metadata of a call, and the fields of its log line, which are added during the call."""

    method: str
    client: str
    """The client's name, from its token or certificate, or else its address without the port."""
    connection: str = ""
    """The caller's address with the port, which is different for each connection."""
    size: int = 0
    """Bytes of the last message that arrived."""
    deadline: float | None = None
    """Time at which the client stops waiting, on the monotonic clock. None: no deadline."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Key-value pairs that the client sent with the call."""
    answer_bytes: int | None = None
    """Largest size of the scores of its answer in bytes. None: the limit for messages."""
    record: dict[str, Any] = field(default_factory=dict)
    """The fields of the call's log line."""
