"""The command `fullconv-score`."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from fullconv import __version__
from fullconv.command.console import complain, tolerate_encodings
from fullconv.command.job import STEM, Job, Scorer
from fullconv.common.files import GRIDS, PICTURES
from fullconv.common.interruption import Interruption
from fullconv.common.model_files import VERSION
from fullconv.common.programs import load_program
from fullconv.errors import RequestError, UnavailableError
from fullconv.options import Options, options_message, scale_message
from fullconv.protos import scoring_pb2
from fullconv.remote.client import Client
from fullconv.remote.connection import Security, addresses

Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG, WebP or TIFF files, or arrays: .npy, Zarr.")
]
Model = Annotated[str, typer.Option(metavar="NAME[/VERSION]", help="The model to score with.")]
ModelVersion = Annotated[
    str,
    typer.Option(
        "--model-version",
        "--version",
        metavar="V",
        help="The model's version, also as --model NAME/V. Default: the highest. `fullconv-score --version` alone "
        "prints the program's.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Score on a fullconv-serve, or several with commas between; here unless told."
    ),
]
Models = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The model repository to score with here; ./models unless told.")
]
Stride = Annotated[
    int | None,
    typer.Option(
        metavar="PX", min=1, max=1 << 20, help="Pixels between windows; the model's native stride unless told."
    ),
]
ModeName = Annotated[
    Literal["auto", "dense", "crops"],
    typer.Option(help="One pass over the image; window by window; or the cheaper where both give the same scores."),
]
Border = Annotated[
    Literal["lattice", "anchor"],
    typer.Option(help="Leave out the pixels beyond the last window; or add windows flush with the edge."),
]
Roi = Annotated[str | None, typer.Option(metavar="X,Y,W,H", help="Score only the windows inside these pixels.")]
Mask = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|otsu",
        help="Score only the windows all of whose pixels are not 0 in an image of the same size, or scaled; or those "
        "that are not background.",
    ),
]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the mirrored image.")]
Scales = Annotated[
    str | None,
    typer.Option(metavar="256,384,0.5x", help="Average over sizes: pixels of the shorter side, or factors."),
]
Bands = Annotated[
    str | None,
    typer.Option(
        metavar="1,2,3",
        help="The image's bands to score, in this order, counted from 1. Default: all; alpha is laid over white.",
    ),
]
Page = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1_000_000,
        help="The page of a multi-page file, counted from 1. Default: the first page of full resolution.",
    ),
]
Planned = Annotated[
    bool, typer.Option("--plan", help="Say what would be run, and what it costs; score and write nothing.")
]
AverageOf = Annotated[Literal["scores", "probabilities"], typer.Option(help="What is averaged over the windows.")]
Top = Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="How many classes to name.")]
Classes = Annotated[
    str | None, typer.Option(metavar="A,B,C", help="Answer with these only, labels or indices; all unless told.")
]
Grid = Annotated[str | None, typer.Option(metavar="OUT.npz", help="Write every window's scores.")]
HeatmapFile = Annotated[
    str | None,
    typer.Option(
        metavar="OUT.png|OUT.jpg|OUT.webp",
        help="Write the image with the scores over it: the probability of one class, or the winning classes.",
    ),
]
HeatmapClass = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The class that the heatmap shows, a label or an index. Default: the only class of the model or of "
        "--classes; of a model with two classes the second; else the winning class of each window.",
    ),
]
Ca = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help="Speak TLS with a server signed by these certificates.")
]
Cert = Annotated[Path | None, typer.Option("--tls-cert", metavar="FILE", help="This client's own certificate, PEM.")]
Key = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")]
Tls = Annotated[bool, typer.Option("--tls", help="Speak TLS with a server that a well-known authority has signed.")]
Token = Annotated[Path | None, typer.Option(metavar="FILE", help="A file that holds a token of the server's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

BAND = re.compile("[1-9][0-9]{0,3}")
ROI = re.compile(",".join(f" *(?P<{name}>[0-9]{{1,9}}) *" for name in ("x", "y", "width", "height")))

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
interruption = Interruption("fullconv-score")


def main() -> None:
    """Run the command; Ctrl-C or a termination signal ends it with status 1 and nothing half-written."""
    interruption.install()
    tolerate_encodings()
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"fullconv-score {__version__}")
        return
    try:
        app()
    except (MemoryError, OSError) as error:
        complain(error if str(error) else "out of memory")
        sys.exit(1)


@app.command()
def score(
    images: Images,
    model: Model,
    *,
    version: ModelVersion = "",
    server: Server = None,
    models: Models = None,
    stride: Stride = None,
    mode: ModeName = "auto",
    border: Border = "lattice",
    roi: Roi = None,
    mask: Mask = None,
    bands: Bands = None,
    page: Page = None,
    flip: Flip = False,
    scales: Scales = None,
    average: AverageOf = "scores",
    top: Top = 5,
    classes: Classes = None,
    grid: Grid = None,
    heatmap: HeatmapFile = None,
    heatmap_class: HeatmapClass = None,
    plan: Planned = False,
    tls: Tls = False,
    tls_ca: Ca = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Score images of any size with a converted model.

    Every window of the image gets a score for each class; the averages over all windows are printed. For several
    images the names given to --grid and --heatmap must contain {stem}, which stands for each image's name; that of
    --mask may.

    fullconv-score page.png --model digits --heatmap page-heatmap.png
    """
    chosen = Options(
        mode=mode, border=border, flip=flip, scales=_scales(scales), average=average, top=top, classes=_names(classes),
        grid=bool(grid or heatmap),
    )  # fmt: skip
    if stride is not None:
        chosen["stride"] = stride
    if bands is not None:
        chosen["bands"] = _bands(bands)
    if page is not None:
        chosen["page"] = page
    region = None if roi is None else _region(roi)
    if heatmap_class is not None and heatmap is None:
        raise typer.BadParameter("expected --heatmap with it, got none", param_hint="--heatmap-class")
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("expected both or neither, got one", param_hint="--tls-cert and --tls-key")
    with _exits():
        options = options_message(chosen)
        options.plan_only = plan
        options.MergeFrom(scoring_pb2.ScoreOptions(region=region))
        name, number = _named_version(model, version)
        request = scoring_pb2.ScoreRequest(model=name, version=number, options=options)
        security = Security(tls, tls_ca, tls_cert, tls_key, _token(token))
        job = Job(_scorer(server, models, security), request, grid, heatmap, mask, interruption.check, heatmap_class)
        _check_outputs(job, images)
        _check_average(job)
        answers = job.run(images, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(answers if len(images) > 1 else answers[0], indent=2))
    if any("error" in answer for answer in answers):
        raise typer.Exit(3)


def _named_version(model: str, version: str) -> tuple[str, str]:
    """Parse --model NAME/VERSION."""
    name, _, number = model.rpartition("/")
    if not VERSION.fullmatch(number) or not name:
        return model, version
    if version not in ("", number):
        raise typer.BadParameter(f"expected one version, got '{model}' and '{version}'", param_hint="--model")
    return name, number


@contextmanager
def _exits() -> Iterator[None]:
    """Errors that are true for every image, as exit statuses."""
    try:
        yield
    except (RequestError, UnavailableError) as error:
        complain(error)
        raise typer.Exit(3 if isinstance(error, RequestError) else 1) from None


def _check_average(job: Job) -> None:
    """Refuse to average probabilities that the model does not have."""
    request = job.request
    if request.options.average != scoring_pb2.AVERAGE_OF_PROBABILITIES:
        return
    if job.scorer.model(request.model, request.version).spec.output.kind == "raw":
        raise typer.BadParameter(f"model {request.model!r} has raw scores, no probabilities", param_hint="--average")


def _names(classes: str | None) -> list[str]:
    """Parse --classes."""
    if classes is None:
        return []
    names = [name.strip() for name in classes.split(",")]
    if "" in names:
        raise typer.BadParameter(f"expected labels or indices between commas, got '{classes}'", param_hint="--classes")
    return names


def _bands(bands: str) -> list[int]:
    """Parse --bands."""
    numbers = [number.strip() for number in bands.split(",")]
    if not all(BAND.fullmatch(number) for number in numbers):
        raise typer.BadParameter(
            f"expected numbers from 1 between commas, as 1,2,3; got '{bands}'", param_hint="--bands"
        )
    return [int(number) for number in numbers]


def _region(roi: str) -> scoring_pb2.Region:
    """Parse --roi."""
    match = ROI.fullmatch(roi)
    if not match or not int(match["width"]) or not int(match["height"]):
        raise typer.BadParameter(f"expected x,y,width,height in pixels, got '{roi}'", param_hint="--roi")
    return scoring_pb2.Region(**{name: int(value) for name, value in match.groupdict().items()})


def _scales(scales: str | None) -> list[str]:
    """Parse --scales."""
    names = [] if scales is None else [name.strip() for name in scales.split(",")]
    try:
        for name in names:
            scale_message(name)
    except RequestError as error:
        raise typer.BadParameter(str(error).removeprefix("scales: "), param_hint="--scales") from None
    return names


def _check_suffix(option: str, name: str | None, suffixes: tuple[str, ...]) -> None:
    """Refuse a file whose suffix stands for no format that is offered."""
    if name is not None and Path(name).suffix.lower() not in suffixes:
        raise typer.BadParameter(
            f"expected a file name that ends in {' or '.join(suffixes)}, got {name!r}", param_hint=option
        )


def _check_outputs(job: Job, images: list[Path]) -> None:
    """Refuse outputs of another format, and what would replace another output, an image, or no file."""
    outputs = job.outputs(images)
    if len({output.absolute() for output in outputs}) < len(outputs):
        raise typer.BadParameter(
            f"expected a file of its own for every image and output, got {outputs[-1]} twice; put {STEM} into "
            "the names, and score images of one name apart",
            param_hint="--grid and --heatmap",
        )
    _check_suffix("--grid", job.grid, GRIDS)
    _check_suffix("--heatmap", job.heatmap, PICTURES)
    for output in outputs:
        if output.exists() and (not output.is_file() or any(_same(output, image) for image in images)):
            raise typer.BadParameter(f"{output} is an image to score, or no file", param_hint="--grid and --heatmap")


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _token(path: Path | None) -> str | None:
    """Read --token."""
    try:
        return None if path is None else path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"token: {path} cannot be read: {error}") from None


def _scorer(server: str | None, models: Path | None, security: Security) -> Scorer:
    """What scores; exit 2 if that is not clear."""
    if server is not None:
        try:
            addresses(server)
        except RequestError as error:
            raise typer.BadParameter(str(error).removeprefix("server: "), param_hint="--server") from None
    if server and models:
        raise typer.BadParameter("expected one of --server and --models, got both", param_hint="--server")
    if server:
        return Client(server, security=security)
    scorer: Scorer = load_program("service.local").LocalScorer(models or Path("models"))
    return scorer
