"""Addresses of servers, the security of connections, and the errors for gRPC statuses."""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fullconv.errors import KINDS, ImageError, RequestError, ScoringError, UnavailableError

ADDRESS = re.compile(r"(dns:///)?(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]/,]+):(?P<port>[0-9]{1,5})")
LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")
"""Names of this machine: no HTTP proxy reaches it, and no other machine can read the data that is sent."""
OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # the server's limits apply
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),  # for a name with several addresses
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),
]
UNTRUSTED = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by a trusted authority, or has expired",
    "Hostname Verification Check failed": "its certificate is for another name",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
}
"""Phrases in gRPC's messages for failures that a retry would only repeat, and their explanations."""
HINTS = {
    **UNTRUSTED,
    "backends failing; last error: UNAVAILABLE": "a server with TLS closes connections without TLS; a server that "
    "requires client certificates closes connections whose certificate is missing, has expired or is not trusted",
}
"""Phrases in gRPC's messages, and their possible explanations."""
CODES = {code.value[0]: code for code in grpc.StatusCode}
"""Statuses by their numbers."""


@dataclass(frozen=True)
class Security:
    """The credentials of a client, and the certificates by which it checks servers. Default: no encryption."""

    tls: bool = False
    """Whether to use TLS. Each of the following files turns TLS on too."""
    ca: Path | None = None
    """PEM file of the authorities that sign the server's certificate. Default: the public authorities of gRPC."""
    cert: Path | None = None
    """PEM file of the client's own certificate, for servers that require client certificates."""
    key: Path | None = None
    """PEM file of the certificate's private key."""
    token: str | None = None
    """A token that the server accepts."""

    def __post_init__(self) -> None:
        """Raise RequestError for a certificate without its key, a file that is not a Path, and an invalid token."""
        for name, file in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            if not isinstance(file, Path | None):
                raise RequestError(f"{name}: expected a Path, got {file!r}")
        if (self.cert is None) != (self.key is None):
            raise RequestError("cert, key: expected both or neither, got one")
        if self.token is not None and not (
            isinstance(self.token, str) and self.token.isascii() and self.token.isprintable() and self.token.strip()
        ):
            raise RequestError("token: expected printable ASCII")

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used."""
        return self.tls or self.ca is not None or self.cert is not None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials for TLS; raises RequestError for a file with other contents."""
        ca, cert, key = (_read(path) for path in (self.ca, self.cert, self.key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the files, since gRPC reports no reason
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except ssl.SSLError:
            raise RequestError(f"ca: expected certificates, PEM, got none in {self.ca}") from None
        try:
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password="")
        except ssl.SSLError as error:
            raise RequestError(
                "cert, key: expected a certificate and its own key, PEM and not encrypted, got "
                f"{error.reason or 'other contents'}"
            ) from None
        return grpc.ssl_channel_credentials(ca, key, cert)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


def addresses(server: str) -> list[str]:
    """Parse "HOST:PORT,HOST:PORT"; raises RequestError for anything else."""
    names = [name.strip() for name in str(server).split(",")]
    for name in names:
        match = ADDRESS.fullmatch(name)
        if not match or int(match["port"]) > 65535:
            raise RequestError(f"server: expected HOST:PORT, or several separated by commas, got {server!r}")
    return names


def open_channels(
    server: str, security: Security, insecure: Callable[..., Any], secure: Callable[..., Any]
) -> list[Any]:
    """Open a channel to each server, by `secure` if TLS is used and else by `insecure`.

    Raises RequestError for an invalid address, and for a token that would be sent to another machine without TLS.
    """
    opened = []
    for address in addresses(server):
        local = LOOPBACK.fullmatch(address.removeprefix("dns:///").rpartition(":")[0]) is not None
        options = [*OPTIONS, *([("grpc.enable_http_proxy", 0)] if local else [])]
        if security.encrypted:
            opened.append(secure(address, security.credentials(), options=options))
            continue
        if security.token is not None and not local:
            raise RequestError(
                f"token: expected TLS, got a connection to {address} on which others can read the token: use TLS"
            )
        opened.append(insecure(address, options=options))
    return opened


def error_of(server: str, code: grpc.StatusCode, details: str, reason: str = "") -> ScoringError:
    """Return the error for a status, with the server's message.

    The reason determines the class of the error. For a status without a reason, from an older server, the code
    determines it.
    """
    if reason in KINDS:
        return KINDS[reason](details)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return ImageError(details)
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED):
        return RequestError(details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger" in details:
        return ImageError(
            f"image and mask: expected a message that {server} accepts, got a larger message: {details}; use "
            "score_large, or scale or cut the image; save a mask as PNG"
        )
    hints = [f" ({hint})" for words, hint in HINTS.items() if words in details]
    return UnavailableError(f"{server}: {code.name}: {details}{''.join(hints)}")


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
