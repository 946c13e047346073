"""The command line of `fullconv-score`: the images, and the options of the command itself."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.command.connection import Computing, ConnectionLine, open_scorer
from fullconv.command.output_options import OutputLine
from fullconv.command.parsing import image_name
from fullconv.common.names import PrecisionName, ProviderName
from fullconv.options import MAX_TILE_MIB

if TYPE_CHECKING:
    from fullconv.base import BaseScorer

DESCRIBING = {field.name for field in fields(ConnectionLine)} | {
    *("model", "version", "server", "models", "provider", "precision", "tile_mib", "describe", "as_json", "images"),
}
"""The fields of options that --describe may have."""
OPTION_NAMES = {"open_pages": "open"}
"""The names of options that differ from those of their fields."""


@dataclass(frozen=True)
class CommandLine(ConnectionLine, OutputLine):
    """All arguments and options, as Typer parses them."""

    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE",
            parser=image_name,
            help="JPEG, PNG, WebP or TIFF files, or arrays: .npy, Zarr; folders of such files, with their sub-folders; "
            "patterns in quotes, such as 'scans/**/*.tif'. Names that begin with a dot are left out.",
        ),
    ] = None
    provider: Annotated[
        ProviderName,
        typer.Option(
            help="Runtime of the networks in this process. cpu: ONNX Runtime. openvino: OpenVINO on the CPU; requires "
            "the extra 'openvino'. cuda, tensorrt: ONNX Runtime on an NVIDIA GPU; require onnxruntime-gpu. auto: the "
            "fastest that is installed, as measured when a model is first loaded; never tensorrt."
        ),
    ] = "auto"
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="Number format of computation in this process. bf16 requires openvino on a processor with bfloat16 "
            "instructions, or tensorrt; fp16 requires tensorrt. auto: the fastest whose scores agree with those of "
            "fp32; then --mode exact and --min-agreement use fp32 on the CPU."
        ),
    ] = "auto"
    tile_mib: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_TILE_MIB,
            help="Largest memory for the activations of one tile in this process, in MiB. Smaller tiles need more "
            "time, because their halos repeat work. Default: a sixth of the memory of the machine or container, at "
            "most 4096.",
        ),
    ] = None
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Print the plan: mode, tiles, cost, predicted time, sizes of the outputs. No image is scored, and "
            "nothing is written; the network runs for about a second to measure its speed.",
        ),
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
            raise typer.BadParameter("expected no images with --describe", param_hint="IMAGE")
        if self.describe:
            self._check_described()
        elif not self.images:
            raise typer.BadParameter("expected an image to score, or --describe, got none", param_hint="IMAGE")
        super().__post_init__()

    def _check_described(self) -> None:
        """Exit with status 2 for an option that has no meaning for the description of a model."""
        for each in fields(self):
            if each.name not in DESCRIBING and getattr(self, each.name) != each.default:
                option = OPTION_NAMES.get(each.name, each.name.replace("_", "-"))
                raise typer.BadParameter("expected no such option with --describe", param_hint=f"--{option}")

    def open_scorer(self) -> "BaseScorer":
        """Return the client or the scorer that the options choose; raises RequestError."""
        return open_scorer(
            self.server, self.models, self.security(), Computing(self.provider, self.precision, self.tile_mib)
        )
