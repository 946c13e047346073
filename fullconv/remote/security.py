"""Security of connections: TLS and tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.errors import RequestError

if TYPE_CHECKING:
    import grpc


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

    def credentials(self) -> "grpc.ChannelCredentials":
        """Return the credentials for TLS; raises RequestError for a file with other contents."""
        import ssl  # noqa: PLC0415 (only connections with TLS need it)

        import grpc  # noqa: PLC0415 (takes long to load, and scoring in this process needs no connection)

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


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
