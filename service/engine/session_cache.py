"""The sessions in memory, bounded by the bytes of their weights."""

from collections import OrderedDict
from threading import Lock

from service.engine.session import Session
from service.engine.version import ServedVersion


class SessionCache:
    """Sessions by version and position of the file in `model.files`; safe to share between threads.

    If the weights of all sessions take more than `max_weights_bytes` bytes, the least recently used sessions are
    forgotten; the session that was added last always stays. Default: no limit.
    """

    def __init__(self, max_weights_bytes: int | None = None) -> None:
        self._max_weights_bytes = max_weights_bytes
        self._sessions: OrderedDict[tuple[ServedVersion, int], Session] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: tuple[ServedVersion, int]) -> bool:
        return key in self._sessions

    def get(self, version: ServedVersion, position: int) -> Session | None:
        """Return a session and mark it as the most recently used; None if it is not in memory."""
        with self._lock:
            session = self._sessions.get((version, position))
            if session is not None:
                self._sessions.move_to_end((version, position))
        return session

    def add(self, version: ServedVersion, position: int, session: Session) -> None:
        """Add a session, unless its version was dropped while the session was loaded."""
        with self._lock:
            if not version.dropped:
                self._sessions[version, position] = session
                self._forget()

    def drop(self, version: ServedVersion) -> None:
        """Mark a version as dropped and forget its sessions. Requests that hold a session finish with it."""
        with self._lock:
            version.dropped = True
            for key in [key for key in self._sessions if key[0] is version]:
                del self._sessions[key]

    def shrink_arena(self) -> None:
        """Free the activations that sessions keep from earlier runs; see `Session.shrink_arena`."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.shrink_arena()

    def _forget(self) -> None:
        """Forget the least recently used sessions until the limit is kept or one session is left."""
        while self._max_weights_bytes is not None and len(self._sessions) > 1:
            if sum(session.weights_bytes for session in self._sessions.values()) <= self._max_weights_bytes:
                return
            self._sessions.popitem(last=False)
