"""The certificates of TLS, which are read again when their files change: whoever renews them need not restart anything.

Connections that are there keep theirs until they are renewed.
"""

import ssl
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from service.log import log

Stamp = tuple[tuple[int, int, int], ...]


class CertificateError(OSError):
    """A file of certificates or keys is not what it must be; the message names the setting."""


@dataclass
class Certificates:
    """A server's certificate and key, and what signs those of its clients, if it asks for them."""

    cert: Path
    key: Path
    client_ca: Path | None
    _seen: Stamp | None = field(init=False, default=None)
    _failed: str = field(init=False, default="")
    """Why they could not be read the last time."""
    _new: deque[grpc.ServerCertificateConfiguration] = field(init=False, default_factory=lambda: deque(maxlen=1))
    """For the next connection."""

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC listens with; raises CertificateError."""
        self._seen, configuration = self._stamp(), self._read()
        return grpc.dynamic_ssl_server_credentials(
            configuration, self._fetch, require_client_authentication=self.client_ca is not None
        )

    @property
    def stale(self) -> bool:
        """Whether a file has changed, and cannot be used."""
        return self._failed != ""

    def refresh(self) -> None:
        """Read the files again if they have changed; what cannot be used changes nothing, and the log says so once."""
        seen = self._stamp()
        if seen == self._seen:
            self._failed = ""  # what was read before is back
            return
        try:
            self._new.append(self._read())
            self._seen, self._failed = seen, ""
            log.info("certificates")
        except CertificateError as error:  # it may pass without a change of the files
            said, self._failed = self._failed, str(error)
            if said != self._failed:
                log.error("certificates", extra={"record": {"error": f"those before stay: {error}"}})

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks for at each connection: new ones, or nothing."""
        try:
            return self._new.pop()
        except IndexError:
            return None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files; raises CertificateError, since gRPC would not say why it refuses them."""
        pair = (_contents("tls_key", self.key), _contents("tls_cert", self.cert))
        ca = _contents("tls_client_ca", self.client_ca) if self.client_ca else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if self.client_ca is not None:  # gRPC would listen without, and then let nobody in
                context.load_verify_locations(self.client_ca)
        except (ssl.SSLError, OSError):
            raise CertificateError(f"tls_client_ca: expected certificates, PEM, got none in {self.client_ca}") from None
        try:
            context.load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error.strerror or "something else"
            raise CertificateError(
                f"tls_cert, tls_key: expected a certificate and its own key, PEM and not encrypted, got {reason}"
            ) from None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)

    def _stamp(self) -> Stamp:
        """What changes when a file does; of one that is not there, nothing."""
        return tuple(_stat(path) for path in (self.cert, self.key, self.client_ca) if path is not None)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


def _contents(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CertificateError(f"{setting}: {file}: cannot be read: {error.strerror}") from None
