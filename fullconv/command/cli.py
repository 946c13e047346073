"""The command `fullconv-score`."""

import json
import logging
import sys
import webbrowser
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from fullconv import __version__
from fullconv.base import BaseScorer
from fullconv.command.console import print_error, tolerate_encodings
from fullconv.command.description import description_table
from fullconv.command.image_table import WRITERS
from fullconv.command.inputs import find_images
from fullconv.command.line import CommandLine
from fullconv.command.task import STEM, ScoreTask
from fullconv.command.usage import takes
from fullconv.common.files import BOX_SUFFIXES, GRID_SUFFIXES, PAGE_SUFFIXES, PICTURE_SUFFIXES, OutputError
from fullconv.common.interruption import Interruption
from fullconv.common.probabilities import RAW
from fullconv.common.programs import MisplacedProgramError
from fullconv.common.text import printable
from fullconv.encode import score_request
from fullconv.errors import ImageError, RequestError, UnavailableError
from fullconv.grids.zarr import is_grid
from fullconv.remote.client import Client
from fullconv.remote.connection import Security, addresses
from fullconv.scorer import Scorer

OUTPUTS = "--grid, --heatmap, --boxes, --html and --table"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
interruption = Interruption("fullconv-score")


def main() -> None:
    """Run the command; Ctrl-C or a termination signal ends it with status 1, and no incomplete output is left."""
    interruption.install()
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it logs a traceback for an answer that cannot be parsed
    tolerate_encodings()
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"fullconv-score {__version__}")
        return
    try:
        app()
    except (MemoryError, OSError) as error:
        print_error(error if str(error) else "out of memory")
        sys.exit(1)


@app.command()
@takes(CommandLine)
def score(line: CommandLine) -> None:
    """Score images of any size with a converted model.

    Every window of the image gets a score for each class; the averages over all windows are printed. For several
    images the names given to --grid, --heatmap, --boxes and --html must contain {stem}, which stands for each image's
    name without its suffix; the name given to --mask may contain it. The images of a folder, and of a pattern such as
    'scans/**/*.tif' in quotes, are scored in the order of their paths.

    fullconv-score page.png --model digits --heatmap page-heatmap.png
    """
    if line.describe:
        _describe(line)
        return
    options = line.options()
    with _exit_statuses():
        model, version = line.named_version()
        score_request(model, version, options)  # raises for invalid options, before anything is opened
        inputs = find_images(line.images or [], line.output_dir)
        images = inputs.images
        task = ScoreTask(
            _scorer(line), model, version, options, line.mask, tuple(line.grid or ()), line.file_options(),
            tuple(line.heatmap or ()), line.heatmap_class, tuple(line.boxes or ()), line.object_options(),
            tuple(line.html or ()), line.plan, interruption.check, inputs.folders, line.output_dir, line.table,
        )  # fmt: skip
        _check_outputs(task, images)
        _check_probabilities(task)
        if inputs.skipped:
            typer.echo(f"images: {len(images)}; other files and links to folders, skipped: {inputs.skipped}", err=True)
        documents = task.run(images, quiet=line.as_json)
    if line.as_json:
        _print_json(documents if len(images) > 1 or inputs.folders else documents[0])
    if line.open_pages and not line.plan:
        _open(task, [image for image, document in zip(images, documents, strict=True) if "error" not in document])
    if any("error" in document for document in documents):
        raise typer.Exit(3)


def _open(task: ScoreTask, images: list[Path]) -> None:
    """Open the pages of images in the browser, or say that there is none."""
    for page in task.page_paths(images):
        if not webbrowser.open(page.absolute().as_uri()):
            print_error(f"open: no browser was found; open {page} yourself")


def _describe(line: CommandLine) -> None:
    """Print the description of the model."""
    with _exit_statuses():
        described = _scorer(line).model(*line.named_version())
    if line.as_json:
        _print_json(described.document())
    else:
        Console(highlight=False).print(description_table(described))


def _print_json(document: object) -> None:
    text = json.dumps(document, indent=2)
    typer.echo(text.replace("\x7f", "\\u007f"))  # the only control character that json does not escape


@contextmanager
def _exit_statuses() -> Iterator[None]:
    """Turn errors that stop every image into exit statuses."""
    try:
        yield
    except (ImageError, RequestError, UnavailableError, OutputError, MisplacedProgramError) as error:
        print_error(error)
        raise typer.Exit(1 if isinstance(error, (UnavailableError, MisplacedProgramError)) else 3) from None


def _check_probabilities(task: ScoreTask) -> None:
    """Refuse to average or to write probabilities of a model without probabilities."""
    for option, value in (("average", task.options["average"]), ("grid-as", task.files.get("grid_as"))):
        wants = value in ("probabilities", "probability")
        if wants and task.scorer.model(task.model, task.version).output.kind == RAW:
            raise typer.BadParameter(
                f"expected scores, got {value}, which model {task.model!r} does not have", param_hint=f"--{option}"
            )


def _check_outputs(task: ScoreTask, images: list[Path]) -> None:
    """Refuse outputs of an unknown format, and outputs that would replace another output, an image, or a folder."""
    for name in task.names:
        if len(images) > 1 and STEM not in name:
            raise typer.BadParameter(
                f"expected {STEM} in the name, since there are {len(images)} images, got {name!r}", param_hint=OUTPUTS
            )
    for name in task.grids:
        _check_suffix("--grid", name, GRID_SUFFIXES)
    for name in task.heatmaps:
        _check_suffix("--heatmap", name, PICTURE_SUFFIXES)
    for name in task.boxes:
        _check_suffix("--boxes", name, BOX_SUFFIXES)
    for name in task.pages:
        _check_suffix("--html", name, PAGE_SUFFIXES)
    if task.table is not None:
        _check_suffix("--table", task.table, tuple(WRITERS))
    outputs = task.outputs(images)
    _check_distinct(outputs)
    known = {identity for image in images if (identity := _identity(image))}
    for output, _ in outputs:
        if output.exists() and (not _is_output(output) or _identity(output) in known):
            raise typer.BadParameter(
                f"expected a new file or an output to replace, got {printable(str(output))}, which is an image to "
                "score or no regular file",
                param_hint=OUTPUTS,
            )


def _check_distinct(outputs: Iterable[tuple[Path, str]]) -> None:
    """Refuse two outputs of the same path; `outputs` are their paths, and the images that they belong to."""
    owners: dict[Path, str] = {}
    for output, owner in outputs:
        path = output.absolute()
        if path in owners:
            raise typer.BadParameter(
                f"expected a different file for every image and output, got {printable(str(output))} for "
                f"{printable(owners[path])} and for {printable(owner)}; put {STEM} into the names, keep images of the "
                "same name in different folders and use --output-dir, or score them in separate commands",
                param_hint=OUTPUTS,
            )
        owners[path] = owner


def _check_suffix(option: str, name: str, suffixes: tuple[str, ...]) -> None:
    """Refuse a file name whose suffix is not that of an offered format."""
    if Path(name).suffix.lower() not in suffixes:
        raise typer.BadParameter(
            f"expected a file name that ends in {' or '.join(suffixes)}, got {name!r}", param_hint=option
        )


def _is_output(path: Path) -> bool:
    """Return whether an output may replace what is there: a file, or a Zarr folder of an earlier run."""
    return path.is_file() or (path.suffix.lower() == ".zarr" and is_grid(path))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file, or None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _scorer(line: CommandLine) -> BaseScorer:
    """Return a client of servers, or a scorer in this process; exit status 2 if the options do not say which."""
    security = Security(line.tls, line.tls_ca, line.tls_cert, line.tls_key, _token(line.token))
    if line.server is not None:
        try:
            addresses(line.server)
        except RequestError as error:
            raise typer.BadParameter(str(error).removeprefix("server: "), param_hint="--server") from None
    if line.server and line.models:
        raise typer.BadParameter("expected one of --server and --models, got both", param_hint="--server")
    return Client(line.server, security=security) if line.server else Scorer(line.models or "models")


def _token(path: Path | None) -> str | None:
    """Read --token."""
    try:
        return None if path is None else path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"token: {path} cannot be read: {error}") from None
