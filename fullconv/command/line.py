"""The command line of `fullconv-score`: what is scored, and the options of the command itself and of its connection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fullconv.command.output_options import OutputLine
from fullconv.common.model_files import VERSION


@dataclass(frozen=True)
class CommandLine(OutputLine):
    """All arguments and options, as Typer parses them."""

    plan: Annotated[
        bool, typer.Option("--plan", help="Print the plan (mode, tiles, cost). Nothing is scored or written.")
    ] = False
    describe: Annotated[
        bool,
        typer.Option(
            "--describe",
            help="Print what the model is: window, strides, modes, labels, agreement, and its card. Takes no images.",
        ),
    ] = False
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False

    def __post_init__(self) -> None:
        """Exit with status 2 for options that contradict each other."""
        if self.describe and self.images:
            raise typer.BadParameter("expected no images with --describe", param_hint="IMAGE...")
        if not self.describe and not self.images:
            raise typer.BadParameter("expected an image to score, or --describe, got none", param_hint="IMAGE...")
        super().__post_init__()
        if (self.tls_cert is None) != (self.tls_key is None):
            raise typer.BadParameter("expected both or neither, got one", param_hint="--tls-cert and --tls-key")

    def named_version(self) -> tuple[str, str]:
        """Return the model's name and version. --model NAME/VERSION gives both."""
        name, _, number = self.model.rpartition("/")
        if not VERSION.fullmatch(number) or not name:
            return self.model, self.version
        if self.version not in ("", number):
            raise typer.BadParameter(
                f"expected one version, got '{self.model}' and '{self.version}'", param_hint="--model"
            )
        return name, number
