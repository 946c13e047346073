"""The command `fullconv-serve`."""

import asyncio
import ipaddress
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from service.limits import Limits
from service.log import log_to_stderr
from service.rpc.server import Settings, serve

ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")
DEFAULTS = Limits()

Models = Annotated[Path, typer.Option(metavar="DIR", help="The model repository: DIR/NAME/VERSION/model.onnx.")]
Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Listen beyond this machine in the clear, where others can read along.")
]
SpoolFolder = Annotated[
    Path | None,
    typer.Option("--spool", metavar="DIR", help="Where large files lie while they are scored; /tmp or the like."),
]
SpoolMib = Annotated[int, typer.Option(metavar="N", min=1, help="Those files together.")]
MaxIdle = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="That a client of ScoreLarge may neither send nor take.")
]
MaxPlan = Annotated[int, typer.Option(metavar="N", min=1, help="Memory of one image beside the model, as planned.")]
Slots = Annotated[int, typer.Option(metavar="N", min=1, help="Images that are scored at once.")]
MaxWaiting = Annotated[
    int, typer.Option(metavar="N", min=1, help="Requests admitted and not answered; more are told to come again.")
]
MaxWaitingMib = Annotated[int, typer.Option(metavar="N", min=1, help="The messages of those requests together.")]
MaxMegapixels = Annotated[float, typer.Option(metavar="N", min=0.001, max=4294, help="Pixels of one image.")]
MaxMessage = Annotated[int, typer.Option(metavar="N", min=1, max=2047, help="One message, either way.")]
TileMemory = Annotated[int, typer.Option(metavar="N", min=1, help="Activations of a tile; its size follows from it.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    """Run the command."""
    app()


@app.command()
def run(
    models: Models,
    *,
    listen: Listen = "127.0.0.1:8500",
    insecure: Insecure = False,
    spool: SpoolFolder = None,
    spool_mib: SpoolMib = DEFAULTS.spool_bytes >> 20,
    slots: Slots = 2,
    max_waiting: MaxWaiting = DEFAULTS.waiting,
    max_waiting_mib: MaxWaitingMib = DEFAULTS.waiting_bytes >> 20,
    max_megapixels: MaxMegapixels = DEFAULTS.image_pixels / 1e6,
    max_message_mib: MaxMessage = DEFAULTS.message_bytes >> 20,
    max_idle: MaxIdle = DEFAULTS.idle_seconds,
    max_plan_mib: MaxPlan = DEFAULTS.plan_bytes >> 20,
    tile_mib: TileMemory = DEFAULTS.tile_bytes >> 20,
) -> None:
    """Serve converted models over gRPC: images in, grids of class scores and averages out.

    SIGTERM answers what was admitted and ends; a second one ends at once. The log goes to standard error, one JSON
    object a line.

    fullconv-serve --models models
    """
    if not insecure and not _is_loopback(listen):
        raise typer.BadParameter(
            f"{listen} is not this machine alone: expected a loopback address, or --insecure", param_hint="--listen"
        )
    if not models.is_dir():
        typer.echo(f"fullconv-serve: models: expected a directory, got {models}", err=True)
        raise typer.Exit(3)
    folder = spool or Path(tempfile.gettempdir())
    if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
        typer.echo(f"fullconv-serve: spool: expected a directory that can be written, got {folder}", err=True)
        raise typer.Exit(3)
    limits = Limits(
        image_pixels=int(max_megapixels * 1e6),
        message_bytes=max_message_mib << 20,
        waiting=max_waiting,
        waiting_bytes=max_waiting_mib << 20,
        spool_bytes=spool_mib << 20,
        tile_bytes=tile_mib << 20,
        idle_seconds=max_idle,
        plan_bytes=max_plan_mib << 20,
    )
    log_to_stderr()
    try:
        asyncio.run(serve(Settings(models, listen, folder, slots, limits)))
    except OSError as error:
        typer.echo(f"fullconv-serve: {error}", err=True)
        raise typer.Exit(1) from None


def _is_loopback(listen: str) -> bool:
    """Whether an address is reached from this machine alone; exit 2 if it is no HOST:PORT."""
    match = ADDRESS.fullmatch(listen)
    if not match or int(match["port"]) > 65535:
        raise typer.BadParameter(f"expected HOST:PORT or [IPV6]:PORT, got '{listen}'", param_hint="--listen")
    try:
        return ipaddress.ip_address(match["host"].strip("[]")).is_loopback
    except ValueError:
        return match["host"] == "localhost"
