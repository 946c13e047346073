"""The server's TLS certificates, which are read again when their files change, so that no restart is needed.

Open connections keep the certificate that they began with.
"""

import ssl
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from service.log import log

Stamp = tuple[tuple[int, int, int], ...]


class CertificateError(OSError):
    """A file of certificates or keys cannot be used. The message names the setting."""


@dataclass
class Certificates:
    """The files with a server's certificate, its key and, if clients need certificates, their authorities."""

    cert: Path
    key: Path
    client_ca: Path | None
    context: ssl.SSLContext = field(init=False)
    """For servers of Python's ssl: the files as they were last read."""
    _seen: Stamp | None = field(init=False, default=None)
    """State of the files when they were read."""
    _failed: str = field(init=False, default="")
    """Why the last attempt to read the files failed. Empty: it did not fail."""
    _new: deque[grpc.ServerCertificateConfiguration] = field(init=False, default_factory=lambda: deque(maxlen=1))
    """The configuration that was read last, until gRPC fetches it for its next connection."""

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server, which follow changes of the files; raises CertificateError."""
        self._seen, configuration = self._stamp(), self._read()
        return grpc.dynamic_ssl_server_credentials(
            configuration, self._fetch, require_client_authentication=self.client_ca is not None
        )

    @property
    def stale(self) -> bool:
        """Whether a file has changed since it was read and cannot be used now."""
        return self._failed != ""

    def refresh(self) -> None:
        """Read the files again if they have changed. If they cannot be used, log that once and keep the old ones."""
        seen = self._stamp()
        if seen == self._seen:
            self._failed = ""  # the files are again the ones that were read
            return
        try:
            self._new.append(self._read())
            self._seen, self._failed = seen, ""
            log.info("certificates")
        except CertificateError as error:  # the next call tries again, even if the files do not change
            previous, self._failed = self._failed, str(error)
            if previous != self._failed:
                log.error(
                    "certificates", extra={"record": {"error": f"the previous certificates remain in use: {error}"}}
                )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a new configuration, or None if nothing has changed. gRPC calls this for each new connection."""
        try:
            return self._new.pop()
        except IndexError:
            return None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files; raises CertificateError. gRPC would not report the cause."""
        pair = (_contents("tls_key", self.key), _contents("tls_cert", self.cert))
        ca = _contents("tls_client_ca", self.client_ca) if self.client_ca else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if self.client_ca is not None:  # gRPC would accept any file, and then refuse all clients
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError):
            raise CertificateError(f"tls_client_ca: expected certificates, PEM, got none in {self.client_ca}") from None
        try:
            context.load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error.strerror or "an unknown error"
            raise CertificateError(
                f"tls_cert, tls_key: expected a certificate and its own key, PEM and not encrypted, got {reason}"
            ) from None
        self.context = context
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)

    def _stamp(self) -> Stamp:
        """Return size, modification time and inode of each file; zeros for a missing file."""
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
