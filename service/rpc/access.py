"""Who may call: everybody; whoever has a certificate that the server trusts; or whoever has a token.

Tokens are kept as their SHA-256, in a file of lines `NAME HASH`, which is read again when it changes:

    printf %s "$TOKEN" | sha256sum

A call carries `authorization: Bearer TOKEN`.
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
SCHEME = "Bearer "
NOTHING = hashlib.sha256().hexdigest()


class TokenFileError(ValueError):
    """A file of tokens cannot be read."""


@dataclass
class Tokens:
    """The tokens of a file; raises TokenFileError if there is a line that is none."""

    path: Path
    _names: dict[str, str] = field(init=False, default_factory=dict)
    _seen: tuple[int, int] = field(init=False, default=(0, 0))
    _failed: str = field(init=False, default="")
    """Why they could not be read the last time."""

    def __post_init__(self) -> None:
        """Read them."""
        self._names, self._seen = _read(self.path)

    @property
    def stale(self) -> bool:
        """Whether the file has changed, and cannot be used."""
        return self._failed != ""

    def refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read changes nothing, and the log says so once."""
        try:
            status = self.path.stat()
            if (status.st_mtime_ns, status.st_size) == self._seen:
                self._failed = ""  # what was read before is back
                return
            self._names, self._seen = _read(self.path)
            self._failed = ""
            log.info("tokens", extra={"record": {"tokens": len(self._names)}})
        except (OSError, TokenFileError) as error:
            said, self._failed = self._failed, str(error)
            if said != self._failed:
                log.error("tokens", extra={"record": {"error": f"the tokens before stay: {error}"}})

    def name(self, token: str) -> str | None:
        """Whose a token is, compared in constant time."""
        got = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for expected, name in self._names.items():
            if hmac.compare_digest(got, expected):
                found = name
        return found


@dataclass(frozen=True)
class Access:
    """Says who calls."""

    tokens: Tokens | None = None

    def client(self, context: grpc.aio.ServicerContext, metadata: dict[str, str]) -> str:
        """The name of the token or certificate, else the address without its port; raises AccessError."""
        if self.tokens is not None:
            return self._by_token(metadata)
        names = context.auth_context().get("x509_common_name")
        return str(names[0], "utf-8", "replace") if names else self.address(context)

    @staticmethod
    def address(context: grpc.aio.ServicerContext) -> str:
        """Where a call comes from, without the port."""
        return str(context.peer()).rpartition(":")[0]

    def _by_token(self, metadata: dict[str, str]) -> str:
        assert self.tokens is not None  # noqa: S101 (asked for only where there are tokens)
        header = metadata.get("authorization", "")
        name = self.tokens.name(header.removeprefix(SCHEME)) if header.startswith(SCHEME) else None
        if name is None:
            got = "another token" if header.startswith(SCHEME) else "another scheme" if header else "none"
            raise AccessError(f"authorization: expected 'Bearer TOKEN' with a token of this server's, got {got}")
        return name


def _read(path: Path) -> tuple[dict[str, str], tuple[int, int]]:
    """The name of every hash; and what changes when the file does."""
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
        if match["hash"].lower() == NOTHING:
            raise TokenFileError(f"tokens: {path}: line {number}: expected the SHA-256 of a token, got that of nothing")
        names[match["hash"].lower()] = match["name"]
    if not names:
        raise TokenFileError(f"tokens: {path}: expected at least one line of NAME and SHA-256, got none")
    return names, (status.st_mtime_ns, status.st_size)
