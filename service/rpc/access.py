"""Authentication of callers: by token, by TLS client certificate, or by their address alone.

The file of tokens has a line `NAME HASH` for each token, where HASH is the token's SHA-256 in hexadecimal:

    printf %s "$TOKEN" | sha256sum

The file is read again when it changes. A call sends its token as the metadata `authorization: Bearer TOKEN`.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from service.errors import AccessError
from service.log import log

LINE = re.compile(r"(?P<name>[A-Za-z0-9_.@-]{1,64})\s+(?P<hash>[0-9a-fA-F]{64})")
SCHEME = "bearer"
EMPTY_HASH = hashlib.sha256().hexdigest()
"""SHA-256 of no bytes at all: the result of hashing an unset variable."""


class TokenFileError(ValueError):
    """A file of tokens cannot be read, or a line of it is invalid."""


@dataclass
class Tokens:
    """The tokens of a file, as last read. Raises TokenFileError if the file cannot be used when this object is made."""

    path: Path
    _names: dict[str, str] = field(init=False, default_factory=dict)
    """The name for each hash."""
    _seen: tuple[int, int] = field(init=False, default=(0, 0))
    """Modification time and size of the file when it was read."""
    _failed: str = field(init=False, default="")
    """Why the last attempt to read the file failed. Empty: it did not fail."""

    def __post_init__(self) -> None:
        """Read the file."""
        self._names, self._seen = _read(self.path)

    @property
    def stale(self) -> bool:
        """Whether the file has changed since it was read and cannot be used now."""
        return self._failed != ""

    def refresh(self) -> None:
        """Read the file again if it has changed. If it cannot be used, keep the old tokens and log the error once."""
        try:
            status = self.path.stat()
            if (status.st_mtime_ns, status.st_size) == self._seen:
                self._failed = ""  # the file is again the one that was read
                return
            self._names, self._seen = _read(self.path)
            self._failed = ""
            log.info("tokens", extra={"record": {"tokens": len(self._names)}})
        except (OSError, TokenFileError) as error:
            previous, self._failed = self._failed, str(error)
            if previous != self._failed:
                log.error("tokens", extra={"record": {"error": f"the previous tokens remain valid: {error}"}})

    def name(self, token: str) -> str | None:
        """Return the name of a token, None if it is unknown. Compares in constant time."""
        got = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for expected, name in self._names.items():
            if hmac.compare_digest(got, expected):
                found = name
        return found


@dataclass(frozen=True)
class Access:
    """Identifies callers. `tokens`: None if calls need no token."""

    tokens: Tokens | None = None

    def client(self, context: grpc.aio.ServicerContext, metadata: dict[str, str]) -> str:
        """Return the name of the caller of a gRPC method; see `identify`."""
        names = context.auth_context().get("x509_common_name")
        return self.identify(metadata, str(names[0], "utf-8", "replace") if names else None, self.address(context))

    def identify(self, metadata: dict[str, str], common_name: str | None, address: str) -> str:
        """Return the name of a caller's token, or else `common_name`, the name in its certificate, or else `address`.

        Raises AccessError if calls need a token and this call has no valid token.
        """
        return common_name or address if self.tokens is None else self._by_token(metadata)

    @staticmethod
    def address(context: grpc.aio.ServicerContext) -> str:
        """Return the address of a caller, without the port."""
        return str(context.peer()).rpartition(":")[0]

    def _by_token(self, metadata: dict[str, str]) -> str:
        assert self.tokens is not None  # noqa: S101 (called only if there are tokens)
        header = metadata.get("authorization", "")
        scheme, _, token = header.partition(" ")
        is_bearer = scheme.lower() == SCHEME
        name = self.tokens.name(token) if is_bearer else None
        if name is None:
            got = "an unknown token" if is_bearer else "another scheme" if header else "no token"
            raise AccessError(f"authorization: expected 'Bearer TOKEN' with a token that this server knows, got {got}")
        return name


def _read(path: Path) -> tuple[dict[str, str], tuple[int, int]]:
    """Return the name for each hash, and the file's modification time and size; raises TokenFileError."""
    names: dict[str, str] = {}
    try:
        status, text = path.stat(), path.read_text("utf-8")
    except OSError as error:
        raise TokenFileError(f"tokens: {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TokenFileError(f"tokens: {path}: expected UTF-8 text") from None
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        match = LINE.fullmatch(entry)
        if not match:
            raise TokenFileError(
                f"tokens: {path}: line {number}: expected NAME and the SHA-256 of a token in hexadecimal"
            )
        if match["hash"].lower() == EMPTY_HASH:
            raise TokenFileError(
                f"tokens: {path}: line {number}: expected the SHA-256 of a token, got the SHA-256 of an empty text"
            )
        names[match["hash"].lower()] = match["name"]
    if not names:
        raise TokenFileError(f"tokens: {path}: expected at least one line of NAME and SHA-256, got none")
    return names, (status.st_mtime_ns, status.st_size)
