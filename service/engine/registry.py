"""The models that can be scored with, as last seen on disk.

    on disk → asked for → checked: hashes, geometry, a window's scores → sessions, of which the idlest are forgotten

A version that fails leaves those before it serving: whoever asks for no version gets the highest that loads. What is
new or has changed after the start is checked before anybody gets it; a changed folder that fails goes on as it was.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock, RLock
from typing import Literal

from service.engine.repository import Fingerprint, ModelRepository, StoredModel
from service.engine.session import Provider, Session
from service.errors import ModelError, NotFoundError, UnreadableModelError

Event = Literal["loaded", "not loaded", "kept", "unloaded"]
"""What becomes of a version; one that is kept goes on as it was loaded, although its folder fails now."""
Report = Callable[[Event, str, str, str], None]
"""Told of it: the event, name, version, and why, or nothing."""


def ignore_event(_event: Event, _name: str, _version: str, _error: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class LoadFailure:
    """Why a version cannot serve: kind and text of a ModelError.

    The error itself is not kept. Each time that an error is raised its traceback gets the frames of the callers, which
    hold a request and its image.
    """

    kind: type[ModelError]
    text: str

    def error(self) -> ModelError:
        """Make a new error to raise."""
        return self.kind(self.text)


@dataclass(eq=False)
class ServedVersion:
    """One version of one model, and what is known of it."""

    name: str
    version: str
    fingerprint: Fingerprint
    """Of its files, when they were checked."""
    seen: Fingerprint
    """Of its files, when they were looked at last."""
    files: StoredModel | None = None
    """When they were checked."""
    model: StoredModel | None = None
    """When it was checked as a whole."""
    failure: LoadFailure | None = None
    """When it failed."""
    said: str = ""
    """What was reported of the same files, which is not said again each time that they are tried."""
    dropped: bool = False
    """Whether it is served no longer."""
    lock: RLock = field(default_factory=RLock)


class Registry:
    """The models of a directory; safe to share between threads."""

    def __init__(
        self,
        root: Path,
        *,
        weights_bytes: int | None = None,
        warm: bool = False,
        pooled: bool = False,
        provider: Provider = "cpu",
        report: Report = ignore_event,
    ) -> None:
        """Look at a directory; keep sessions of so many bytes of weights together, all if None.

        A warm registry runs a window through each session that it loads, to see that it can, and how fast; sessions of
        a pooled one share the threads of this process's global pool.
        """
        self._repository = ModelRepository(root)
        self._budget, self._warm, self._report = weights_bytes, warm, report
        self._load = partial(Session, pooled=pooled, provider=provider)
        self._served: dict[tuple[str, str], ServedVersion] = {}
        self._unloaded: set[str] = set()
        self._sessions: OrderedDict[tuple[ServedVersion, int], Session] = OrderedDict()
        self._lock, self._refreshing = Lock(), Lock()
        self._started = False
        self.refresh()
        self._started = True

    def models(self) -> list[tuple[str, str]]:
        """Every (name, version), by name, then by number."""
        return sorted(self._served, key=lambda key: (key[0], int(key[1])))

    def get(self, name: str, version: str = "") -> tuple[ServedVersion, StoredModel]:
        """A version, checked; an empty one is the highest that can serve.

        Raises NotFoundError if there is none, ModelError if it cannot serve.
        """
        choice = self._choice(name, version)
        if not choice:
            self.refresh(wait=self._repository.has(name))
            choice = self._choice(name, version)
        if not choice:
            raise self._unknown(name, version)
        for served in choice[:-1]:
            try:
                return served, self._checked(served)
            except ModelError:
                continue
        try:
            return choice[-1], self._checked(choice[-1])
        except ModelError as error:
            raise (choice[0].failure.error() if choice[0].failure else error) from None

    def check(self, name: str, version: str) -> None:
        """Check a version's files before anybody asks for it, so that what is wrong with them is known."""
        served = self._served.get((name, version))
        if served is not None:
            with served.lock, self._recording_failure(served):
                if served.failure is None:
                    self._opened(served)

    def get_if_checked(self, name: str, version: str) -> tuple[ServedVersion, StoredModel] | None:
        """The version that `get` returns, if its files have been checked; None if `get` must read files first."""
        for served in self._choice(name, version):
            model = served.model  # another thread may take it away
            if model is not None:
                return served, model
            if served.failure is None:
                return None
        return None

    def is_loaded(self, name: str, version: str, *, all_strides: bool) -> bool:
        """Whether a version can be asked without anything being read: its native stride's file, or those of all."""
        known = self.get_if_checked(name, version)
        if known is None:
            return False
        served, model = known
        positions = range(len(model.strides) if all_strides else 1)
        return all((served, position) in self._sessions for position in positions)

    def session(self, served: ServedVersion, model: StoredModel, position: int) -> Session:
        """The session that runs one of a version's files, shared by all its runs; raises ModelError."""
        session = self._held(served, position)
        if session is not None:
            return session
        with served.lock:
            session = self._held(served, position)
            if session is not None:
                return session
            self._check_unchanged(served, position)
            session = self._load(model, position)
            if self._warm:
                session.warm()
            with self._lock:
                if not served.dropped:
                    self._sessions[served, position] = session
                    self._forget()
        return session

    def shrink_arena(self) -> None:
        """Give back what sessions hold beside their weights, if it is much."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.shrink_arena()

    def refresh(self, *, at_once: bool = False, wait: bool = True) -> dict[tuple[str, str], ModelError]:
        """Look at the disk again; at files that are still being copied only if it is to be at once.

        Returns what was new or had changed and failed. Who does not wait leaves it to whoever is looking already.
        """
        failed: dict[tuple[str, str], ModelError] = {}
        if not self._refreshing.acquire(blocking=wait):
            return failed
        try:
            try:
                seen = dict(self._repository.fingerprints(list(self._served)))
            except OSError:
                if not self._started:
                    raise
                return failed  # a volume that is away for a while: what is served goes on
            seen = {key: fingerprint for key, fingerprint in seen.items() if key[0] not in self._unloaded}
            for key in set(self._served) - set(seen):
                self._drop(self._served.pop(key))
                self._report("unloaded", *key, "")
            for key, fingerprint in seen.items():
                known = self._served.get(key)
                if (known is None or known.seen != fingerprint) and (at_once or self._is_settled(*key)):
                    said = known.said if known is not None and not known.seen else ""
                    error = self._take(ServedVersion(*key, fingerprint, fingerprint, said=said), known)
                    if error is not None:
                        failed[key] = error
        finally:
            self._refreshing.release()
        return failed

    def load(self, name: str) -> None:
        """Serve a model again, and look at its files anew; raises NotFoundError, or ModelError if a version fails.

        Whatever served before one that fails goes on.
        """
        self._unloaded.discard(name)
        for served in self._choice(name, ""):
            if served.failure is not None or served.seen != served.fingerprint:
                served.seen, served.said = (), ""  # why it failed may have passed
        failed = self.refresh(at_once=True)
        self.get(name)
        for key, error in failed.items():
            if key[0] == name:
                raise error

    def unload(self, name: str) -> None:
        """Serve a model no longer, until it is loaded; what runs goes on. Raises NotFoundError."""
        if not self._choice(name, ""):
            raise self._unknown(name, "")
        self._unloaded.add(name)
        self.refresh()

    @property
    def unloaded(self) -> list[str]:
        """Models that are not served until they are loaded."""
        return sorted(self._unloaded - {name for name, _ in self.models()})

    @property
    def failing(self) -> int:
        """Versions whose files cannot be served, as far as is known; those that go on as they were loaded too."""
        return sum(served.failure is not None or served.said != "" for served in list(self._served.values()))

    def invalid_names(self) -> list[str]:
        """Folders of models that nobody can ask for, since their names are none."""
        return self._repository.invalid_names()

    def state(self, name: str, version: str) -> tuple[bool, str]:
        """Whether a version can serve, as far as is known, and why not."""
        served = self._served.get((name, version))
        failure = served.failure if served is not None else None
        return served is not None and failure is None, failure.text if failure else ""

    def _choice(self, name: str, version: str) -> list[ServedVersion]:
        """What answers for a version, the first one if it can."""
        served = dict(self._served)
        numbers = sorted((key[1] for key in served if key[0] == name and version in ("", key[1])), key=int)
        return [served[name, number] for number in reversed(numbers)]

    def _unknown(self, name: str, version: str) -> NotFoundError:
        versions = [known for key, known in self.models() if key == name]
        if versions:
            ready = [known for known in versions if self.state(name, known)[0]] or versions
            return NotFoundError(f"version: no {version!r} of model {name!r}; there: {', '.join(ready)}")
        if name in self._unloaded:
            return NotFoundError(f"model: {name!r} was unloaded; load it again")
        names = ", ".join(dict.fromkeys(known for known, _ in self.models())) or "none"
        return NotFoundError(f"model: no {name!r}; there: {names}")

    def _checked(self, served: ServedVersion) -> StoredModel:
        """Check a version, once."""
        if served.model is not None:
            return served.model
        if served.failure is not None:
            raise served.failure.error()
        with served.lock:
            if served.model is None and served.failure is None:
                with self._recording_failure(served):
                    model = self._opened(served)
                    if self._warm:
                        self.session(served, model, 0)
                    served.model, served.said = model, ""
                    self._report("loaded", served.name, served.version, "")
            if served.model is None:
                raise served.failure.error() if served.failure else AssertionError
            return served.model

    def _opened(self, served: ServedVersion) -> StoredModel:
        """Check a version's files, once; raises ModelError. Its lock is held."""
        if served.files is None:
            served.files = self._repository.open(served.name, served.version)
        return served.files

    @contextmanager
    def _recording_failure(self, served: ServedVersion) -> Iterator[None]:
        """Note what makes a version fail."""
        try:
            yield
        except ModelError as error:
            self._record_failure(served, error)

    def _record_failure(self, served: ServedVersion, error: ModelError) -> None:
        """Note and report that a version cannot serve."""
        served.model, served.failure = None, LoadFailure(type(error), str(error))
        if isinstance(error, UnreadableModelError):
            served.seen = ()  # the next look tries again
        if str(error) != served.said:
            served.said = str(error)
            self._report("not loaded", served.name, served.version, served.said)

    def _take(self, served: ServedVersion, known: ServedVersion | None) -> ModelError | None:
        """Take what was seen; after the start only when it is checked, and not in place of what serves if it fails."""
        if self._checks:
            try:
                self._checked(served)
            except ModelError:
                if known is not None and known.model is not None:
                    known.seen = served.seen
                    if known.said != served.said:
                        known.said = served.said
                        self._report("kept", known.name, known.version, "")
                    return served.failure.error() if served.failure else None
        self._served[served.name, served.version] = served
        if known is not None:
            self._drop(known)
        return served.failure.error() if served.failure else None

    @property
    def _checks(self) -> bool:
        """Whether what is new is checked before anybody gets it."""
        return self._started and self._warm

    def _is_settled(self, name: str, version: str) -> bool:
        """Whether a version can be looked at: after the start not while it is being copied."""
        try:
            return not self._checks or self._repository.is_settled(name, version)
        except OSError:
            return False  # it is being removed

    def _held(self, served: ServedVersion, position: int) -> Session | None:
        """A session that is there, which is now the one that was asked for last."""
        with self._lock:
            session = self._sessions.get((served, position))
            if session is not None:
                self._sessions.move_to_end((served, position))
        return session

    def _check_unchanged(self, served: ServedVersion, position: int) -> None:
        """Raise ModelError if a version's files are not those that were checked, or are to be.

        A version that has lost its native stride's session so can serve no longer; those before it may.
        """
        try:
            if self._repository.fingerprint(served.name, served.version) == served.fingerprint:
                return
        except OSError as away:
            error: ModelError = UnreadableModelError(
                f"{served.name}/{served.version}: its files cannot be looked at: {away.strerror}"
            )
        else:
            error = ModelError(
                f"{served.name}/{served.version}: its files have changed since they were found: load the model again, "
                "or put a new version beside this one"
            )
        if position == 0 and served.model is not None:
            self._record_failure(served, error)
        raise error

    def _drop(self, served: ServedVersion) -> None:
        with self._lock:
            served.dropped = True
            for key in [key for key in self._sessions if key[0] is served]:
                del self._sessions[key]

    def _forget(self) -> None:
        """Forget the sessions that were asked for the longest ago, but the last one, until the budget is kept."""
        while self._budget is not None and len(self._sessions) > 1:
            if sum(session.weights_bytes for session in self._sessions.values()) <= self._budget:
                return
            self._sessions.popitem(last=False)
