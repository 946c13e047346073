"""The options of the connection to servers, with their help, and the scorer that the options choose."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import fullconv
from fullconv.common.names import PRECISIONS, PrecisionName, ProviderName, has_precision
from fullconv.errors import RequestError
from fullconv.remote.addresses import addresses
from fullconv.remote.security import Security

if TYPE_CHECKING:
    from fullconv.base import BaseScorer


@dataclass(frozen=True)
class ConnectionLine:
    """How servers are called, as Typer parses it."""

    tls: Annotated[
        bool, typer.Option("--tls", help="Use TLS. A public authority must have signed the server's certificate.")
    ] = False
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            metavar="FILE",
            help="Use TLS. An authority in this PEM file must have signed the server's certificate.",
        ),
    ] = None
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="PEM file with this client's certificate.")
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="PEM file with the private key of --tls-cert.")
    ] = None
    token: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the token to send to the server.")] = (
        None
    )

    def __post_init__(self) -> None:
        """Exit with status 2 for options that contradict each other."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise typer.BadParameter("expected both or neither, got one", param_hint="--tls-cert and --tls-key")
        parent = getattr(super(), "__post_init__", None)
        if parent is not None:
            parent()

    def security(self) -> Security:
        """Return the security of connections; raises RequestError if the file of the token cannot be read."""
        try:
            token = None if self.token is None else self.token.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
            raise RequestError(f"token: {self.token} cannot be read: {reason}") from None
        return Security(self.tls, self.tls_ca, self.tls_cert, self.tls_key, token)


@dataclass(frozen=True)
class Computing:
    """How networks are computed in this process."""

    provider: ProviderName = "auto"
    precision: PrecisionName = "auto"
    tile_mib: int | None = None


def open_scorer(server: str | None, models: Path | None, security: Security, computing: Computing) -> "BaseScorer":
    """Return a client of servers, or a scorer in this process; exit status 2 if the options do not say which.

    Only the one that is returned is loaded.
    """
    if server is not None:
        check_addresses(server)
    if server and models:
        raise typer.BadParameter("expected one of --server and --models, got both", param_hint="--server")
    if server and computing != Computing():
        raise typer.BadParameter(
            "expected no --provider, --precision and --tile-mib, which are options of the server", param_hint="--server"
        )
    check_precision(computing.provider, computing.precision)
    if server:
        return fullconv.Client(server, security=security)
    return fullconv.Scorer(models or "models", **asdict(computing))


def check_precision(provider: ProviderName, precision: PrecisionName) -> None:
    """Exit with status 2 for a precision that the provider does not have."""
    if not has_precision(provider, precision):
        expected = " or ".join(PRECISIONS[provider])
        raise typer.BadParameter(
            f"expected {expected} with provider {provider}, got {precision}; leave it out", param_hint="--precision"
        )


def check_addresses(server: str) -> None:
    """Exit with status 2 for text that is no list of addresses."""
    try:
        addresses(server)
    except RequestError as error:
        raise typer.BadParameter(str(error).removeprefix("server: "), param_hint="--server") from None
