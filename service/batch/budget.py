"""A limit on the memory, or on the disk space for copies, that the images of a job use together.

An image waits until its share is free. The images are served in the order in which they ask, so that small images do
not keep a large one waiting for ever. An image that alone exceeds the budget is scored alone.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

WAIT_SECONDS = 0.2
"""Seconds between two checks whether the job stops, while an image waits."""


@dataclass(eq=False)
class Budget:
    """Bytes of memory or of a disk that several threads share."""

    total: float
    held: float = field(init=False, default=0.0)
    highest: float = field(init=False, default=0.0)
    """The largest number of bytes that were held at the same time."""
    _queue: deque[object] = field(init=False, default_factory=deque)
    _changed: Condition = field(init=False, default_factory=Condition)

    def __post_init__(self) -> None:
        """Raise ValueError unless there are some bytes."""
        if not self.total > 0:
            raise ValueError(f"total: expected more than 0 bytes, got {self.total}")

    @contextmanager
    def claim(self, size: float, check: Callable[[], None]) -> Iterator[None]:
        """Hold `size` bytes for the duration of the block, when it is this caller's turn and the bytes are free.

        `check` is called while the caller waits, and may raise to stop.
        """
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                while self._queue[0] is not turn or not self._fits(size):
                    self._changed.wait(WAIT_SECONDS)
                    check()
                self._take(size)
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._take(-size)
                self._changed.notify_all()

    def _fits(self, size: float) -> bool:
        return not self.held or self.held + size <= self.total

    def _take(self, size: float) -> None:
        self.held += size
        if not self.held > 0.5:  # the rest of a sum of floating-point numbers
            self.held = 0.0
        self.highest = max(self.highest, self.held)
