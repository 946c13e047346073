"""The sessions in memory, bounded by the bytes of their weights."""

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

from service.engine.backend import REFERENCE
from service.engine.session import Session
from service.engine.version import ServedVersion


class SessionKey(NamedTuple):
    """One session of one version."""

    served: ServedVersion
    position: int
    """Position of the file in `model.files`."""
    reference: bool = False
    """Whether the backend must be `REFERENCE`. Default: the backend that measurements have chosen."""


class SessionCache:
    """Sessions by version, position of the file in `model.files`, and `reference`; safe to share between threads.

    If the weights of all sessions take more than `max_weights_bytes` bytes, the least recently used sessions are
    forgotten; the session that was added last always stays. Default: no limit.
    """

    def __init__(self, max_weights_bytes: int | None = None) -> None:
        self._max_weights_bytes = max_weights_bytes
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: SessionKey) -> bool:
        return self._key(key) is not None

    def get(self, key: SessionKey) -> Session | None:
        """Return a session and mark it as the most recently used; None if it is not in memory."""
        with self._lock:
            found = self._key(key)
            if found is None:
                return None
            self._sessions.move_to_end(found)
            return self._sessions[found]

    def _key(self, key: SessionKey) -> SessionKey | None:
        """Return the key of the session in memory that serves; the reference may be the backend that was chosen."""
        chosen = self._sessions.get(key._replace(reference=False))
        if chosen is not None and (not key.reference or chosen.backend == REFERENCE):
            return key._replace(reference=False)
        return key if key in self._sessions else None

    def add(self, key: SessionKey, session: Session) -> None:
        """Add a session, unless its version was dropped while the session was loaded."""
        with self._lock:
            if not key.served.dropped:
                self._sessions[key] = session
                self._forget()

    def drop(self, version: ServedVersion) -> None:
        """Mark a version as dropped and forget its sessions. Requests that hold a session finish with it."""
        with self._lock:
            version.dropped = True
            for key in [key for key in self._sessions if key.served is version]:
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
