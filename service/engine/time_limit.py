"""Runs work with a time limit, so that a volume that does not answer blocks only a daemon thread."""

import errno
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread
from typing import TypeVar

THREADS = 4
"""Number of threads that share the work of one call."""
MAX_HUNG = 32
"""Number of hanging threads at which no more work is started."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class TimeLimit:
    """Runs work in daemon threads and waits for at most `seconds` seconds without a result.

    Late work raises TimeoutError, which is an OSError. It continues in its thread, and its result is dropped. Until it
    ends, work with the same key is not started and counts as late at once.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._hung: dict[Hashable, Thread] = {}
        self._lock = Lock()

    def run(self, key: Hashable, work: Callable[[], Value]) -> Value:
        """Return the result of the work; raises TimeoutError, and the errors of the work."""
        result = self.run_all({key: work})[key]
        if isinstance(result, OSError):
            raise result
        return result

    def run_all(self, works: Mapping[Key, Callable[[], Value]]) -> dict[Key, Value | OSError]:
        """Return the result of each work, or its OSError: TimeoutError if it did not end. Raises other errors of work.

        The limit is for the time from one result to the next, so that much work may take longer.
        """
        late = TimeoutError(errno.ETIMEDOUT, f"no answer within {self.seconds:g} seconds")
        results: dict[Key, Value | OSError] = dict.fromkeys(works, late)
        waiting = deque(self._startable(works))
        remaining, started = {key for key, _ in waiting}, dict[Key, Thread]()
        done = SimpleQueue[tuple[Key, Value | Exception]]()
        while remaining and len(self._hung) < MAX_HUNG:
            for _ in range(min(THREADS, len(waiting))):
                Thread(target=_work_off, args=(waiting, started, done), name="limited", daemon=True).start()
            try:
                while remaining:
                    key, result = done.get(timeout=self.seconds)
                    results[key] = _raise_other(result)
                    remaining.discard(key)
                    del started[key]
            except Empty:
                hung = dict(started)
                remaining -= set(hung)
                with self._lock:
                    self._hung |= {key: hung[key] for key in hung}
        waiting.clear()
        return results

    def _startable(self, works: Mapping[Key, Callable[[], Value]]) -> list[tuple[Key, Callable[[], Value]]]:
        """Return the work whose key does not hang."""
        with self._lock:
            self._hung = {key: thread for key, thread in self._hung.items() if thread.is_alive()}
            return [item for item in works.items() if item[0] not in self._hung]


def _work_off(
    waiting: deque[tuple[Key, Callable[[], Value]]],
    started: dict[Key, Thread],
    done: SimpleQueue[tuple[Key, Value | Exception]],
) -> None:
    """Do waiting work until all work is taken."""
    while waiting:
        try:
            key, work = waiting.popleft()
        except IndexError:  # another thread has taken it
            return
        started[key] = current_thread()
        try:
            result: Value | Exception = work()
        except Exception as error:  # raised again where the result is awaited
            result = error
        done.put((key, result))


def _raise_other(result: Value | Exception) -> Value | OSError:
    """Return a result or an OSError; raises any other error."""
    if isinstance(result, Exception) and not isinstance(result, OSError):
        raise result
    return result
