"""The end of a job before its last image: at a signal, at too many failures, or because results cannot be written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock


class StoppedError(Exception):
    """The work on an image was given up, because the job stops at once."""


@dataclass(frozen=True)
class Stop:
    """Says whether a job stops; may be used by several threads."""

    gently: Event = field(default_factory=Event)
    """Set when no further part shall begin."""
    at_once: Event = field(default_factory=Event)
    """Set when images that are being scored shall be given up, too."""

    _closing: set[Callable[[], None]] = field(default_factory=set, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def now(self) -> None:
        """Stop at once: close what is registered. Not to be called by a handler of a signal, which might wait."""
        self.gently.set()
        with self._lock:
            self.at_once.set()
            closing = [*self._closing]
        for close in closing:
            close()

    @contextmanager
    def closing(self, close: Callable[[], None]) -> Iterator[None]:
        """Call `close` if the job stops at once during the block; an error of the block then is StoppedError."""
        with self._lock:
            self._closing.add(close)
        try:
            self.check()
            yield
        except Exception:
            self.check()
            raise
        finally:
            with self._lock:
                self._closing.discard(close)

    def check(self) -> None:
        """Raise StoppedError if the job stops at once."""
        if self.at_once.is_set():
            raise StoppedError

    def pause(self, seconds: float) -> None:
        """Wait; raises StoppedError as soon as the job stops at once."""
        self.at_once.wait(seconds)
        self.check()

    def wait_to_begin(self, seconds: float) -> None:
        """Wait while nothing has begun; raises StoppedError as soon as the job stops."""
        if self.gently.wait(seconds):
            raise StoppedError
