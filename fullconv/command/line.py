"""The command line of `fullconv-score`: the images, and the options of the command itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fullconv.command.connection import ConnectionLine
from fullconv.command.output_options import OutputLine


@dataclass(frozen=True)
class CommandLine(ConnectionLine, OutputLine):
    """All arguments and options, as Typer parses them."""

    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE...",
            help="JPEG, PNG, WebP or TIFF files, or arrays: .npy, Zarr; folders of such files, with their sub-folders; "
            "patterns in quotes, such as 'scans/**/*.tif'. Names that begin with a dot are left out.",
        ),
    ] = None
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False

    def __post_init__(self) -> None:
        """Exit with status 2 for options that contradict each other."""
        if self.describe and self.images:
            raise typer.BadParameter("expected no images with --describe", param_hint="IMAGE...")
        if not self.describe and not self.images:
            raise typer.BadParameter("expected an image to score, or --describe, got none", param_hint="IMAGE...")
        super().__post_init__()
