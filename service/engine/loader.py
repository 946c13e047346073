"""Checks the files of versions and loads their sessions.

A server checks versions in processes of their own, with limits of time and memory, and gives the same time to loading.
In-process scoring does both in its own process, without limits: its user has chosen the models, can interrupt the
process, and does not have to wait for another process to start.
"""

from dataclasses import dataclass, field
from functools import partial

from service import machine
from service.engine.backend import REFERENCE, Backend
from service.engine.checks import Checks
from service.engine.choice import choose
from service.engine.executables import Threads
from service.engine.repository import ModelRepository, StoredModel
from service.engine.run_sizes import run_sizes
from service.engine.session import Session
from service.engine.time_limit import TimeLimit
from service.engine.version import ServedVersion
from service.errors import ModelError, UnreadableModelError


@dataclass(frozen=True)
class LoadOptions:
    """How versions are checked and loaded."""

    threads: Threads = field(default_factory=Threads)
    """The threads in which networks compute."""
    backends: tuple[Backend, ...] = (REFERENCE,)
    """The backends among which measurements choose; at least one."""
    measures_runs: bool = False
    """Whether the sizes of batches are measured."""
    measures_singles: bool = True
    """Whether runs in one thread each are measured too."""
    checks: Checks | None = None
    """Checks versions in other processes. None: versions are checked in this process."""


class Loader:
    """Checks and loads the versions of a repository. A warm loader scores a window with each new session."""

    def __init__(self, repository: ModelRepository, options: LoadOptions, *, warm: bool) -> None:
        self._repository, self._warm, self._checks = repository, warm, options.checks
        self._threads, self._backends = options.threads, options.backends
        self._measures_runs, self._measures_singles = options.measures_runs, options.measures_singles
        self._limit = TimeLimit(options.checks.seconds) if options.checks else None

    @property
    def chooses_precision(self) -> bool:
        """Whether measurements choose among several precisions."""
        return len({backend.precision for backend in self._backends}) > 1

    @property
    def has_full_precision(self) -> bool:
        """Whether scores in fp32 can be had."""
        return any(backend.precision == REFERENCE.precision for backend in self._backends)

    def check(self, served: ServedVersion) -> StoredModel:
        """Check a version's files; raises ModelError."""
        self.check_unchanged(served)
        check = self._checks.check if self._checks else self._repository.open
        return check(served.name, served.version)

    def check_unchanged(self, served: ServedVersion) -> None:
        """Raise ModelError if the files on disk are not those with which the version was found."""
        path = f"{served.name}/{served.version}"
        try:
            fingerprint = self._repository.fingerprint(served.name, served.version)
        except OSError as inaccessible:
            raise UnreadableModelError(f"{path}: its files cannot be accessed: {inaccessible.strerror}") from None
        if fingerprint != served.fingerprint:
            raise ModelError(
                f"{path}: its files have changed since the server found them; load the model again, or put a new "
                "version beside this one"
            )

    def session(self, model: StoredModel, position: int, *, reference: bool = False) -> Session:
        """Load the session for the file at `position` of `model.files`; raises ModelError.

        With `reference` its backend is `REFERENCE`. Default: the backend that measurements choose.
        """
        backends = (REFERENCE,) if reference else self._backends
        make = partial(self._make_session, model, position, backends)
        if self._limit is None:
            return make()
        try:
            return self._limit.run((model.name, model.version, position, reference), make)
        except TimeoutError as late:
            raise UnreadableModelError(f"{model.name}/{model.version}: cannot be loaded: {late.strerror}") from None

    def check_again(self, name: str) -> None:
        """Let the next check of a model start at once, even if its volume did not answer before."""
        if self._checks:
            self._checks.check_again(name)

    def _make_session(self, model: StoredModel, position: int, backends: tuple[Backend, ...]) -> Session:
        def load(backend: Backend) -> Session:
            return Session(model, position, backend=backend, threads=self._threads)

        if self._limit is not None:  # this is a thread of its own, whose priority the runtimes' threads inherit
            machine.lower_priority()
        session = (
            load(REFERENCE)
            if backends == (REFERENCE,)
            else choose(model, position, backends, load, threads=self._threads.count)
        )
        if self._warm:
            session.warm()
        if self._measures_runs and position < len(model.strides):
            session.use_run_sizes(run_sizes(session, self._threads.count, singles=self._measures_singles))
        return session
