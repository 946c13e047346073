"""The models that can be requested, as they were found on disk.

    found on disk → requested → checked: hashes, geometry, scores of a window → sessions in memory

If a version fails, lower versions continue to serve: a request that names no version gets the highest version that can
be loaded. After the start new and changed versions are checked before they serve. If the changed files of a version
fail, the version that was loaded before continues to serve.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Literal

from fullconv.common.text import shortened_message
from service.engine.backend import REFERENCE
from service.engine.loader import Loader, LoadOptions
from service.engine.repository import OUT_OF_REACH, Fingerprint, ModelRepository, StoredModel
from service.engine.session import Session
from service.engine.session_cache import SessionCache, SessionKey
from service.engine.version import ServedVersion
from service.errors import ModelError, NotFoundError

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
        options: LoadOptions | None = None,
        report: Report = ignore_event,
    ) -> None:
        """Look at the directory `root`; raises OSError if it cannot be listed.

        `weights_bytes` limits the weights of the sessions in memory. Default: no limit. With `warm` each session scores
        a window when it is loaded, as a test and to measure its rate. Default of `options`: `LoadOptions()`.
        """
        self._repository = ModelRepository(root)
        self._warm, self._report = warm, report
        self.loader = Loader(self._repository, options or LoadOptions(), warm=warm)
        self._versions: dict[tuple[str, str], ServedVersion] = {}
        self._found: dict[tuple[str, str], ServedVersion] = {}
        """New and changed versions that are not checked yet."""
        self._unloaded: set[str] = set()
        self.unlisted: dict[str, str] = {}
        """The reason for each model's folder that cannot be listed now; "" is the repository itself."""
        self._sessions = SessionCache(weights_bytes)
        self._refreshing, self._changing = Lock(), Lock()
        self._started = False
        self.refresh()
        self._started = True

    def models(self) -> list[tuple[str, str]]:
        """Return every (name, version), sorted by name and then by number."""
        return _sorted(self._versions)

    def get(self, name: str, version: str = "") -> tuple[ServedVersion, StoredModel]:
        """Return a version that was checked. Default of `version`: the highest version that can be loaded.

        Raises NotFoundError if there is no such version, and ModelError if it cannot be loaded.
        """
        candidates = self._candidates(name, version)
        if not candidates:
            self.refresh(wait=self._repository.has_folder(name), only=name)
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

    def check(self, name: str, version: str) -> ModelError | None:
        """Check a version's files before the first request, so that damage is reported early; returns its error.

        A new or changed version is also loaded, and serves from now on.
        """
        found, served = self._found.get((name, version)), self._versions.get((name, version))
        if found is not None:
            return self._take(found)
        if served is not None:
            with served.lock, self._recording_failure(served):
                if served.failure is None:
                    self._check_files(served)
        return served.failure.error() if served and served.failure else None

    def unchecked(self) -> list[tuple[str, str]]:
        """Return the versions for which `check` has something to do, sorted by name and then by number."""
        served = {key for key, each in list(self._versions.items()) if not (each.checked_files or each.failure)}
        return _sorted(served | set(self._found))

    def is_loaded(self, name: str, version: str, *, all_files: bool, reference: bool = False) -> bool:
        """Return whether a version's session for the native stride is in memory, or its sessions for all files."""
        if (checked := self.get_if_checked(name, version)) is None:
            return False
        served, count = checked[0], len(checked[1].files) if all_files else 1
        return all(SessionKey(served, position, reference) in self._sessions for position in range(count))

    def session(self, served: ServedVersion, model: StoredModel, position: int, *, reference: bool = False) -> Session:
        """Return the session for the file at `position` of `model.files`; loads it if needed. Raises ModelError.

        With `reference` its backend is `REFERENCE`. Default: the backend that measurements have chosen.
        """
        wanted = SessionKey(served, position, reference)
        session = self._sessions.get(wanted)
        if session is not None:
            return session
        with served.lock:
            chosen = SessionKey(served, position)
            session = self._sessions.get(wanted) or self._sessions.get(chosen)
            session = session or self._load_session(served, model, chosen)
            if reference and session.backend != REFERENCE:
                session = self._load_session(served, model, wanted)
        return session

    def shrink_arena(self) -> None:
        """Free the activations that sessions keep from earlier runs."""
        self._sessions.shrink_arena()

    def refresh(self, *, at_once: bool = False, wait: bool = True, only: str = "") -> dict[tuple[str, str], ModelError]:
        """Look at the disk and check the new and changed versions of the model `only`; returns their errors.

        Default of `only`: of all models. The other parameters are those of `look`.
        """
        self.look(at_once=at_once, wait=wait)
        errors = {key: self.check(*key) for key in _sorted(self._found) if only in ("", key[0])}
        return {key: error for key, error in errors.items() if error is not None}

    def look(self, *, at_once: bool = False, wait: bool = True) -> None:
        """Look at the disk: drop versions that are gone, and note new and changed versions for `check`.

        Files that are still being copied are left for a later call, unless `at_once`. If another thread looks already,
        `wait` waits for it first; otherwise this call does nothing.
        """
        if not self._refreshing.acquire(blocking=wait):
            return
        try:
            found = self._find()
            if found is not None:
                settled = {key for key in self._new(found) if at_once or self._is_settled(key, found[key])}
                with self._changing:
                    self._update(found, settled)
        finally:
            self._refreshing.release()

    def load(self, name: str) -> None:
        """Serve a model (again), and check its failing and changed versions now.

        Raises NotFoundError if there is no such model, and ModelError if a new or changed version fails. Then
        lower versions, and the files that were loaded before, are still served.
        """
        self._unloaded.discard(name)
        self.loader.check_again(name)
        for served in self._candidates(name, ""):
            if served.failure is not None or served.last_fingerprint != served.fingerprint:
                served.check_again()
                served.reported_error = ""
        failed = self.refresh(at_once=True, only=name)
        self.get(name)
        for error in failed.values():
            raise error

    def unload(self, name: str) -> None:
        """Stop serving a model until `load` is called; running requests finish. Raises NotFoundError."""
        if not self._candidates(name, ""):
            raise self._not_found(name, "")
        self._unloaded.add(name)
        self.look()

    @property
    def unloaded(self) -> list[str]:
        """Names of the models that were unloaded."""
        return sorted(self._unloaded - {name for name, _ in self.models()})

    @property
    def failing(self) -> int:
        """Number of versions whose files on disk are known to fail, even if their earlier files are still served.

        A model's folder that cannot be listed counts as a version.
        """
        return sum(served.fails for served in list(self._versions.values())) + len(self.unlisted)

    def invalid_names(self) -> list[str]:
        """Return model folders whose names are invalid and which therefore cannot be requested."""
        return self._repository.invalid_names()

    def state(self, name: str, version: str) -> tuple[bool, str]:
        """Return whether a version is served and not known to fail, and its failure as one printable line."""
        served = self._versions.get((name, version))
        failure = served.failure if served is not None else None
        return served is not None and failure is None, shortened_message(failure.text) if failure else ""

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
            served.checked_files = self.loader.check(served)
        return served.checked_files

    def _load_session(self, served: ServedVersion, model: StoredModel, key: SessionKey) -> Session:
        """Load a session; raises ModelError. The version's lock must be held.

        If the session for the native stride cannot be loaded again, the version has failed and lower versions answer.
        """
        try:
            self.loader.check_unchanged(served)
        except ModelError as error:
            if key.position == 0 and served.model is not None:
                self._record_failure(served, error)
            raise
        session = self.loader.session(model, key.position, reference=key.reference)
        self._sessions.add(key, session)
        return session

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
            found = self._repository.look(list(self._versions))
        except OSError as error:
            if not self._started:
                raise
            self.unlisted = {"": str(error.strerror)}
            return None  # a volume may be unmounted for a while; its models stay
        self.unlisted = found.unlisted
        return {key: fingerprint for key, fingerprint in found.fingerprints.items() if key[0] not in self._unloaded}

    def _new(self, found: dict[tuple[str, str], Fingerprint]) -> Iterator[tuple[str, str]]:
        """Yield the versions that are new or have changed since they were noted for a check."""
        for key, fingerprint in found.items():
            known = self._found.get(key) or self._versions.get(key)
            if known is None or known.last_fingerprint != fingerprint:
                yield key

    def _update(self, found: dict[tuple[str, str], Fingerprint], settled: set[tuple[str, str]]) -> None:
        """Drop the versions that are gone, and note the new and changed versions in `settled` for a check."""
        for key in set(self._versions) - set(found):
            self._sessions.drop(self._versions.pop(key))
            self._report("unloaded", *key, "")
        for key in set(self._found) - set(found):
            del self._found[key]
        for key in settled:
            served, known = ServedVersion(*key, found[key], found[key]), self._versions.get(key)
            if known is not None and not known.last_fingerprint:  # the same files are checked again
                served.reported_error = known.reported_error
            self._found[key] = served
            if not self._checks_first:
                self._replace(served)

    def _take(self, served: ServedVersion) -> ModelError | None:
        """Check and add a new or changed version; returns its error.

        If the check fails, a version that is loaded stays. A version that was removed, or has changed again meanwhile,
        is dropped.
        """
        with served.lock:
            if served.model is None and served.failure is None:  # no other thread has checked it
                succeeded = self._can_be_loaded(served)
                with self._changing:
                    if self._found.get((served.name, served.version)) is not served:
                        self._sessions.drop(served)
                    elif not succeeded and self._is_loaded(served.name, served.version):
                        self._keep(served)
                    else:
                        self._replace(served)
        return served.failure.error() if served.failure else None

    def _is_loaded(self, name: str, version: str) -> bool:
        """Return whether an earlier state of a version's files serves."""
        known = self._versions.get((name, version))
        return known is not None and known.model is not None

    def _keep(self, failed: ServedVersion) -> None:
        """Serve a version as it was loaded before, because its files on disk have failed."""
        key = failed.name, failed.version
        known = self._versions[key]
        del self._found[key]
        known.last_fingerprint = failed.last_fingerprint
        if known.record_report(failed.reported_error):
            self._report("kept", *key, "")

    def _replace(self, served: ServedVersion) -> None:
        """Serve a version in place of an earlier state of its files."""
        key = served.name, served.version
        known = self._versions.get(key)
        del self._found[key]
        self._versions[key] = served
        if known is not None:
            self._sessions.drop(known)

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

    def _is_settled(self, key: tuple[str, str], fingerprint: Fingerprint) -> bool:
        """Return whether a version may be added; after the start, not while its files are being copied."""
        if not self._checks_first or fingerprint == OUT_OF_REACH:
            return True
        try:
            return self._repository.is_settled(*key)
        except OSError:
            return False  # the folder is being removed


def _sorted(keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (name, version) sorted by name and then by number."""
    return sorted(keys, key=lambda key: (key[0], int(key[1])))
