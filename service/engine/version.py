"""The state of one version of one model in the registry."""

from dataclasses import dataclass, field
from threading import RLock

from service.engine.repository import Fingerprint, StoredModel
from service.errors import ModelError, UnreadableModelError


@dataclass(frozen=True)
class LoadFailure:
    """The class and the text of the ModelError for which a version cannot serve.

    The error itself is not kept: whenever an error is raised, its traceback gets the frames of the callers, which hold
    a request and its image.
    """

    kind: type[ModelError]
    text: str

    def error(self) -> ModelError:
        """Return a new error to raise."""
        return self.kind(self.text)


@dataclass(eq=False)
class ServedVersion:
    """One version of one model: its files' fingerprints, and the result of checking them.

    A version is unchecked (neither `model` nor `failure` is set), loaded (`model`) or failed (`failure`).
    """

    name: str
    version: str
    fingerprint: Fingerprint
    """Fingerprint of the files when the version was found; only files with this fingerprint are loaded."""
    last_fingerprint: Fingerprint
    """Fingerprint of the files when the disk was last read; empty if the next refresh must check them again."""
    checked_files: StoredModel | None = None
    """The model, once the hashes of its files were checked."""
    model: StoredModel | None = None
    """The same model, once it was loaded."""
    failure: LoadFailure | None = None
    reported_error: str = ""
    """Text of the error that was reported for the files on disk, so that it is reported once. Default: no error."""
    dropped: bool = False
    """Whether the registry no longer serves the version."""
    lock: RLock = field(default_factory=RLock)
    """Held while the version is checked, and while one of its sessions is loaded."""

    @property
    def fails(self) -> bool:
        """Whether the files on disk cannot be served, also if the version still serves as it was loaded before."""
        return self.failure is not None or self.reported_error != ""

    def record_failure(self, error: ModelError) -> bool:
        """Mark the version as failed; returns whether this error was not reported yet."""
        self.model, self.failure = None, LoadFailure(type(error), str(error))
        if isinstance(error, UnreadableModelError):
            self.check_again()
        return self.record_report(str(error))

    def record_report(self, text: str) -> bool:
        """Record the text of an error that is reported; returns whether it was not reported yet."""
        is_new, self.reported_error = text != self.reported_error, text
        return is_new

    def check_again(self) -> None:
        """Let the next refresh check the files even if they have not changed."""
        self.last_fingerprint = ()
