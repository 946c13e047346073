"""The models that can be requested, as they were found on disk.

    found on disk → requested → checked: hashes, geometry, scores of a window → sessions in memory

If a version fails, lower versions continue to serve: a request that names no version gets the highest version that can
be loaded. After the start new and changed versions are checked before they serve. If the changed files of a version
fail, the version that was loaded before continues to serve.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

from service.engine.repository import Fingerprint, ModelRepository, StoredModel
from service.engine.session import Provider, Session
from service.engine.session_cache import SessionCache
from service.engine.version import ServedVersion
from service.errors import ModelError, NotFoundError, UnreadableModelError

Event = Literal["loaded", "not loaded", "kept", "unloaded"]
"""A change of a version. "kept": its files on disk now fail, and the version loaded before continues to serve."""
Report = Callable[[Event, str, str, str], None]
"""Called with an event, the name and version of the model, and the text of the error; empty: no error."""


def ignore_event(_event: Event, _name: str, _version: str, _error: str) -> None:
    """Do nothing."""


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
        """Look at the directory `root`; raises OSError if it cannot be listed.

        `weights_bytes` limits the weights of the sessions in memory. Default: no limit. With `warm` each session scores
        a window when it is loaded, as a test and to measure its rate. Pooled sessions share the threads of the
        process's global pool.
        """
        self._repository = ModelRepository(root)
        self._warm, self._report = warm, report
        self._load = partial(Session, pooled=pooled, provider=provider)
        self._versions: dict[tuple[str, str], ServedVersion] = {}
        self._unloaded: set[str] = set()
        self._sessions = SessionCache(weights_bytes)
        self._refreshing = Lock()
        self._started = False
        self.refresh()
        self._started = True

    def models(self) -> list[tuple[str, str]]:
        """Return every (name, version), sorted by name and then by number."""
        return sorted(self._versions, key=lambda key: (key[0], int(key[1])))

    def get(self, name: str, version: str = "") -> tuple[ServedVersion, StoredModel]:
        """Return a version that was checked. Default of `version`: the highest version that can be loaded.

        Raises NotFoundError if there is no such version, and ModelError if it cannot be loaded.
        """
        candidates = self._candidates(name, version)
        if not candidates:
            self.refresh(wait=self._repository.has_folder(name))
            candidates = self._candidates(name, version)
        if not candidates:
            raise self._not_found(name, version)
        for served in candidates[:-1]:
            try:
                return served, self._checked(served)
            except ModelError:
                continue
        try:
            return candidates[-1], self._checked(candidates[-1])
        except ModelError as error:
            raise (candidates[0].failure.error() if candidates[0].failure else error) from None

    def get_if_checked(self, name: str, version: str) -> tuple[ServedVersion, StoredModel] | None:
        """Return what `get` returns, or None if `get` would have to read files first."""
        for served in self._candidates(name, version):
            model = served.model  # another thread may set it to None
            if model is not None:
                return served, model
            if served.failure is None:
                return None
        return None

    def check(self, name: str, version: str) -> None:
        """Check a version's files before the first request, so that damage is reported early."""
        served = self._versions.get((name, version))
        if served is not None:
            with served.lock, self._recording_failure(served):
                if served.failure is None:
                    self._check_files(served)

    def is_loaded(self, name: str, version: str, *, all_strides: bool) -> bool:
        """Return whether a version's session for the native stride is in memory, or its sessions for all strides."""
        checked = self.get_if_checked(name, version)
        if checked is None:
            return False
        served, model = checked
        positions = range(len(model.strides) if all_strides else 1)
        return all((served, position) in self._sessions for position in positions)

    def session(self, served: ServedVersion, model: StoredModel, position: int) -> Session:
        """Return the session for the file at `position` of `spec.strides`; loads it if needed. Raises ModelError."""
        session = self._sessions.get(served, position)
        if session is not None:
            return session
        with served.lock:
            session = self._sessions.get(served, position)
            if session is None:
                session = self._load_session(served, model, position)
        return session

    def shrink_arena(self) -> None:
        """Free the activations that sessions keep from earlier runs."""
        self._sessions.shrink_arena()

    def refresh(self, *, at_once: bool = False, wait: bool = True) -> dict[tuple[str, str], ModelError]:
        """Look at the disk again; returns the errors of new and changed versions by (name, version).

        Files that are still being copied are left for a later call, unless `at_once`. If another thread refreshes
        already, `wait` waits for it first; otherwise this call does nothing.
        """
        if not self._refreshing.acquire(blocking=wait):
            return {}
        try:
            found = self._find()
            return {} if found is None else self._update(found, at_once=at_once)
        finally:
            self._refreshing.release()

    def load(self, name: str) -> None:
        """Serve a model (again), and check its failing and changed versions now.

        Raises NotFoundError if there is no such model, and ModelError if a new or changed version fails. Then
        lower versions, and the files that were loaded before, are still served.
        """
        self._unloaded.discard(name)
        for served in self._candidates(name, ""):
            if served.failure is not None or served.last_fingerprint != served.fingerprint:
                served.check_again()
                served.reported_error = ""
        failed = self.refresh(at_once=True)
        self.get(name)
        for key, error in failed.items():
            if key[0] == name:
                raise error

    def unload(self, name: str) -> None:
        """Stop serving a model until `load` is called; running requests finish. Raises NotFoundError."""
        if not self._candidates(name, ""):
            raise self._not_found(name, "")
        self._unloaded.add(name)
        self.refresh()

    @property
    def unloaded(self) -> list[str]:
        """Names of the models that were unloaded."""
        return sorted(self._unloaded - {name for name, _ in self.models()})

    @property
    def failing(self) -> int:
        """Number of versions whose files on disk are known to fail, even if their earlier files are still served."""
        return sum(served.fails for served in list(self._versions.values()))

    def invalid_names(self) -> list[str]:
        """Return model folders whose names are invalid and which therefore cannot be requested."""
        return self._repository.invalid_names()

    def state(self, name: str, version: str) -> tuple[bool, str]:
        """Return whether a version is served and not known to fail, and the text of its failure."""
        served = self._versions.get((name, version))
        failure = served.failure if served is not None else None
        return served is not None and failure is None, failure.text if failure else ""

    def _candidates(self, name: str, version: str) -> list[ServedVersion]:
        """Return the versions that may answer a request, the highest first."""
        versions = dict(self._versions)
        numbers = sorted((key[1] for key in versions if key[0] == name and version in ("", key[1])), key=int)
        return [versions[name, number] for number in reversed(numbers)]

    def _not_found(self, name: str, version: str) -> NotFoundError:
        versions = [known for key, known in self.models() if key == name]
        if versions:
            ready = [known for known in versions if self.state(name, known)[0]] or versions
            return NotFoundError(f"version: no version {version!r} of model {name!r}; available: {', '.join(ready)}")
        if name in self._unloaded:
            return NotFoundError(f"model: {name!r} was unloaded; load it again")
        names = ", ".join(dict.fromkeys(known for known, _ in self.models())) or "none"
        return NotFoundError(f"model: no model {name!r}; available: {names}")

    def _checked(self, served: ServedVersion) -> StoredModel:
        """Return a version's model; checks and loads it at the first call. Raises ModelError."""
        if served.model is not None:
            return served.model
        if served.failure is not None:
            raise served.failure.error()
        with served.lock:
            if served.model is None and served.failure is None:
                with self._recording_failure(served):
                    served.model = self._load_version(served)
                    served.reported_error = ""
                    self._report("loaded", served.name, served.version, "")
            if served.model is None:
                raise served.failure.error() if served.failure else AssertionError
            return served.model

    def _load_version(self, served: ServedVersion) -> StoredModel:
        """Check a version's files and, in a warm registry, load its first session; raises ModelError."""
        model = self._check_files(served)
        if self._warm:
            self.session(served, model, 0)
        return model

    def _check_files(self, served: ServedVersion) -> StoredModel:
        """Check a version's files at the first call; raises ModelError. The version's lock must be held."""
        if served.checked_files is None:
            served.checked_files = self._repository.open(served.name, served.version)
        return served.checked_files

    def _load_session(self, served: ServedVersion, model: StoredModel, position: int) -> Session:
        """Load a session; raises ModelError. The version's lock must be held."""
        self._check_unchanged(served, position)
        session = self._load(model, position)
        if self._warm:
            session.warm()
        self._sessions.add(served, position, session)
        return session

    def _check_unchanged(self, served: ServedVersion, position: int) -> None:
        """Raise ModelError if the files on disk are not those with which the version was found.

        If the session for the native stride cannot be loaded again, the version has failed and lower versions answer.
        """
        try:
            if self._repository.fingerprint(served.name, served.version) == served.fingerprint:
                return
        except OSError as inaccessible:
            error: ModelError = UnreadableModelError(
                f"{served.name}/{served.version}: its files cannot be accessed: {inaccessible.strerror}"
            )
        else:
            error = ModelError(
                f"{served.name}/{served.version}: its files have changed since the server found them: load the model "
                "again, or put a new version beside this one"
            )
        if position == 0 and served.model is not None:
            self._record_failure(served, error)
        raise error

    @contextmanager
    def _recording_failure(self, served: ServedVersion) -> Iterator[None]:
        """Catch a ModelError of the block and record it as the version's failure."""
        try:
            yield
        except ModelError as error:
            self._record_failure(served, error)

    def _record_failure(self, served: ServedVersion, error: ModelError) -> None:
        """Mark a version as failed, and report the error unless it was reported already."""
        if served.record_failure(error):
            self._report("not loaded", served.name, served.version, served.reported_error)

    def _find(self) -> dict[tuple[str, str], Fingerprint] | None:
        """Return the versions on disk, without the unloaded models; None if the disk cannot be read after the start."""
        try:
            found = dict(self._repository.fingerprints(list(self._versions)))
        except OSError:
            if not self._started:
                raise
            return None  # a volume may be unmounted for a while; its models stay
        return {key: fingerprint for key, fingerprint in found.items() if key[0] not in self._unloaded}

    def _update(self, found: dict[tuple[str, str], Fingerprint], *, at_once: bool) -> dict[tuple[str, str], ModelError]:
        """Drop the versions that are gone, and add new and changed versions; returns the errors of added versions."""
        failed = {}
        for key in set(self._versions) - set(found):
            self._sessions.drop(self._versions.pop(key))
            self._report("unloaded", *key, "")
        for key, fingerprint in found.items():
            known = self._versions.get(key)
            is_new = known is None or known.last_fingerprint != fingerprint
            if is_new and (at_once or self._is_settled(*key)):
                error = self._take(key, fingerprint, known)
                if error is not None:
                    failed[key] = error
        return failed

    def _take(self, key: tuple[str, str], fingerprint: Fingerprint, known: ServedVersion | None) -> ModelError | None:
        """Add a new or changed version; returns its error.

        After the start a warm registry checks it first. If the check fails, a version that is loaded stays.
        """
        served = ServedVersion(*key, fingerprint, fingerprint)
        if known is not None and not known.last_fingerprint:  # the same files are checked again
            served.reported_error = known.reported_error
        if self._checks_first and not self._can_be_loaded(served) and known is not None and known.model is not None:
            known.last_fingerprint = served.last_fingerprint
            if known.record_report(served.reported_error):
                self._report("kept", *key, "")
        else:
            self._versions[key] = served
            if known is not None:
                self._sessions.drop(known)
        return served.failure.error() if served.failure else None

    @property
    def _checks_first(self) -> bool:
        """Whether new versions are checked before they serve."""
        return self._started and self._warm

    def _can_be_loaded(self, served: ServedVersion) -> bool:
        """Check and load a version; returns whether that succeeded."""
        try:
            self._checked(served)
        except ModelError:
            return False
        return True

    def _is_settled(self, name: str, version: str) -> bool:
        """Return whether a version may be added; after the start, not while its files are being copied."""
        try:
            return not self._checks_first or self._repository.is_settled(name, version)
        except OSError:
            return False  # the folder is being removed
