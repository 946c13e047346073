"""The end of a job before its last image: at a signal, at too many failures, or because results cannot be written."""

from dataclasses import dataclass, field
from threading import Event


class StoppedError(Exception):
    """The work on an image was given up, because the job stops at once."""


@dataclass(frozen=True)
class Stop:
    """Says whether a job stops."""

    gently: Event = field(default_factory=Event)
    """Set when no further part shall begin."""
    at_once: Event = field(default_factory=Event)
    """Set when images that are being scored shall be given up, too."""

    def now(self) -> None:
        """Stop at once."""
        self.gently.set()
        self.at_once.set()

    def check(self) -> None:
        """Raise StoppedError if the job stops at once."""
        if self.at_once.is_set():
            raise StoppedError
