"""The command line of `fullconv-batch`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from fullconv.command.connection import ConnectionLine, check_addresses, check_precision
from fullconv.command.grid_options import GridLine
from fullconv.command.usage import usage_errors
from fullconv.file_options import FILE_DEFAULTS, check_file_options
from fullconv.options import MAX_TILE_MIB
from service.batch.limits import FailureLimit
from service.batch.urls import is_url
from service.batch.work import SUFFIXES, TILE_MIB, Work
from service.engine.backend import REFERENCE, Backend, Precision, Provider

EngineName = Literal["local", "server", "ray"]
GridsName = Literal["zarr", "npz", "geotiff", "geojson"]
SHARD = re.compile(r"(?P<number>[0-9]{1,6})/(?P<count>[1-9][0-9]{0,6})")


@dataclass(frozen=True)
class JobLine(GridLine):
    """The images of a job, its results and its engine, as Typer parses them."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Images; folders with their sub-folders; patterns in quotes, such as 'scans/**/*.tif'; and URLs of "
            "buckets, such as s3://bucket/folder, whose backend for fsspec (s3fs, gcsfs, …) is installed.",
        ),
    ] = None
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Folder or URL of a bucket for the results. The same command continues an interrupted job.",
        ),
    ] = ""
    list_file: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Score the images in this list: a text with a path or URL in each line, or .csv or .parquet with a "
            "column 'path', whose other columns the results carry.",
        ),
    ] = None
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Score only images of folders and buckets whose name matches this pattern, such as '*.tif'; may be "
            "given several times. Default: all images, which are known by their suffixes.",
        ),
    ] = None
    engine: Annotated[
        EngineName | None,
        typer.Option(
            help="local: score in this process. server: score on the servers of --server. ray: score on the nodes of a "
            "Ray cluster. Default: server if --server is given, otherwise local."
        ),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT", help="The Ray cluster. Default: auto, the cluster that this machine belongs to."
        ),
    ] = None
    provider: Annotated[
        Provider,
        typer.Option(
            help="Runtime that computes the networks on every machine of the job. Nothing is chosen by measurement, so "
            "that the results do not depend on the machine. cpu: ONNX Runtime. openvino: requires the extra "
            "'openvino'. cuda, tensorrt: require onnxruntime-gpu."
        ),
    ] = "cpu"
    precision: Annotated[
        Precision,
        typer.Option(
            help="Number format of computation. bf16 requires openvino on processors with bfloat16 instructions, or "
            "tensorrt; fp16 requires tensorrt."
        ),
    ] = "fp32"
    tile_mib: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_TILE_MIB,
            help="Largest memory for the activations of one tile, in MiB. Smaller tiles need more time, because their "
            "halos repeat work.",
        ),
    ] = TILE_MIB
    grids: Annotated[
        GridsName | None,
        typer.Option(help="Write the grid of every image under OUT/grids/, as this kind of file. Default: no grids."),
    ] = None
    wide: Annotated[
        bool,
        typer.Option("--wide", help="Write a column for the average of each class. Default: one column with a list."),
    ] = False
    max_failures: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="Stop when more than N images, or P percent of the job's images, have no scores. With "
            "--shard: of the shard's images. Default: never.",
        ),
    ] = None
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Score again the images that have no scores.")
    ] = False
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Also score images that were added since the job began. Images may have been removed."
        ),
    ] = False
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Score only every N-th part of the job, from part I on, counted from 0. N runs with the same OUT, "
            "each with another I, score the whole job. Default: all parts.",
        ),
    ] = None


@dataclass(frozen=True)
class BatchLine(ConnectionLine, JobLine):
    """All arguments and options, as Typer parses them."""

    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Print the number of images, their cost and the predicted time. Images are scored for five seconds to "
            "measure the rate. Nothing is written.",
        ),
    ] = False
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the summary as one JSON document, and events on standard error: a JSON object in each line.",
        ),
    ] = False

    def __post_init__(self) -> None:
        """Exit with status 2 for options that contradict each other."""
        super().__post_init__()
        if bool(self.inputs) == (self.list_file is not None):
            got = "both" if self.inputs else "none"
            raise typer.BadParameter(f"expected images or --list, got {got}", param_hint="INPUT")
        if "" in (self.inputs or []):  # as a path, it would be the current folder
            raise typer.BadParameter(
                "expected an image, a folder, a pattern or a URL, got an empty text", param_hint="INPUT"
            )
        if not self.out and not self.plan:
            raise typer.BadParameter("expected a folder or URL for the results, got none", param_hint="--out")
        if self.update and self.shard is not None:
            raise typer.BadParameter("expected --update in a run of the whole job, got a shard", param_hint="--update")
        self._check_engine()
        if self.grids is None and {**FILE_DEFAULTS, **self.file_options()} != FILE_DEFAULTS:
            raise typer.BadParameter("expected --grids with options of grids, got none", param_hint="--grids")
        if self.grids is not None:
            with usage_errors():
                check_file_options([f"grid{SUFFIXES[self.grids]}"], self.file_options())
        self.failure_limit()
        self.shard_of()

    def _check_engine(self) -> None:
        if self.server is not None:
            check_addresses(self.server)
        engine = self.engine_name
        if (engine == "server") != (self.server is not None):
            got = f"--engine {engine} with it" if self.server else "none"
            raise typer.BadParameter(f"expected --server with --engine server only, got {got}", param_hint="--server")
        if engine == "server" and (self.backend, self.tile_mib) != (REFERENCE, TILE_MIB):
            raise typer.BadParameter(
                "expected no --provider, --precision and --tile-mib, which are options of the server",
                param_hint="--server",
            )
        if engine == "server" and self.models is not None:
            raise typer.BadParameter("expected one of --server and --models, got both", param_hint="--server")
        check_precision(self.provider, self.precision)
        if self.address is not None and engine != "ray":
            raise typer.BadParameter("expected --engine ray with it, got none", param_hint="--address")

    @property
    def engine_name(self) -> EngineName:
        """The engine."""
        return self.engine or ("server" if self.server else "local")

    @property
    def backend(self) -> Backend:
        """What computes the networks in this process or on the nodes."""
        return Backend(self.provider, self.precision)

    def failure_limit(self) -> FailureLimit:
        """Return how many images may fail; exit status 2 for other text."""
        try:
            return FailureLimit.parse(self.max_failures)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--max-failures") from None

    def shard_of(self) -> tuple[int, int]:
        """Return the number of the shard, and the number of shards; exit status 2 for other text."""
        match = SHARD.fullmatch(self.shard or "0/1")
        if not match or int(match["number"]) >= int(match["count"]):
            raise typer.BadParameter(f"expected I/N with I from 0 to N - 1, got {self.shard!r}", param_hint="--shard")
        return int(match["number"]), int(match["count"])

    def work(self, name: str, version: str) -> Work:
        """Return how images are scored, with this version of the model."""
        return Work(
            model=name,
            version=version,
            options={**self.options(), "grid": self.grids is not None},
            out=self.out if is_url(self.out) else str(Path(self.out).absolute()),
            folder=str(Path.cwd()),
            mask=self.mask,
            map_region=self.map_region(),
            grids=self.grids or "",
            files=self.file_options(),
            wide=self.wide,
            backend=self.backend,
            tile_mib=self.tile_mib,
        )
