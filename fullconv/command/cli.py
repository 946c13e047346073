"""The command `fullconv-score`. What scores images is loaded when images are scored, so that --help is quick."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from fullconv import __version__
from fullconv.command.console import check_output, print_error, printing, tolerate_encodings
from fullconv.command.interrupting import interruption
from fullconv.command.line import CommandLine
from fullconv.command.outputs import Outputs
from fullconv.command.usage import takes
from fullconv.common.files import OutputError
from fullconv.common.loading import end_loading
from fullconv.common.programs import MisplacedProgramError
from fullconv.encode import score_request
from fullconv.errors import ImageError, RequestError, UnavailableError

OPENED = 10
"""Largest number of pages that are opened in the browser."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    """Run the command; Ctrl-C or a termination signal ends it with status 1, and no incomplete output is left."""
    interruption.install()
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it logs a traceback for an answer that cannot be parsed
    tolerate_encodings()
    check_output()
    if sys.argv[1:] == ["--version"]:
        with printing():
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

    fullconv-score models/digits/page.png --model digits --heatmap heat.png
    """
    (_describe if line.describe else _score)(line)


def _score(line: CommandLine) -> None:
    """Score the images, print the answers, and write the files."""
    from fullconv.command.inputs import find_images
    from fullconv.command.model_checks import check_model_options
    from fullconv.command.output_checks import check_outputs
    from fullconv.command.task import ScoreTask
    from fullconv.grids import check_packages

    options = line.options()
    with _exit_statuses():
        model, version = line.named_version()
        score_request(model, version, options)  # raises for invalid options, before anything is opened
        inputs = find_images(line.images or [], line.output_dir)
        images = inputs.images
        outputs = line.outputs(inputs.folders)
        scorer = line.open_scorer()
        end_loading()
        task = ScoreTask(
            scorer, model, version, options, line.mask, line.map_region(), outputs, line.plan, interruption.check
        )
        check_outputs(outputs, images, line.mask)
        check_packages(outputs.grids, outputs.files)
        check_model_options(outputs, options, lambda: scorer.model(model, version))
        if inputs.skipped:
            typer.echo(f"images: {len(images)}; skipped: {inputs.skipped}", err=True)
        documents = task.run(images, quiet=line.as_json)
    if line.as_json:
        _print_json(documents if len(images) > 1 or inputs.folders else documents[0])
    if line.open_pages and not line.plan:
        _open(outputs, [image for image, document in zip(images, documents, strict=True) if "error" not in document])
    if any("error" in document for document in documents):
        raise typer.Exit(3)


def _open(outputs: Outputs, images: list[Path]) -> None:
    """Open the first pages of images in the browser; print an error if no browser is found."""
    import webbrowser

    pages = [outputs.path_for(name, image) for name in outputs.pages for image in images]
    if len(pages) > OPENED:
        typer.echo(f"open: opened the first {OPENED} of {len(pages)} pages", err=True)
    for page in pages[:OPENED]:
        if not webbrowser.open(page.absolute().as_uri()):
            print_error(f"open: no browser was found; open {page} yourself")


def _describe(line: CommandLine) -> None:
    """Print the description of the model."""
    from fullconv.command.description import description_table
    from fullconv.common.console import result_console

    with _exit_statuses():
        scorer = line.open_scorer()
        end_loading()
        described = scorer.model(*line.named_version())
    if line.as_json:
        _print_json(described.document())
    else:
        with printing():
            result_console().print(description_table(described))


def _print_json(document: object) -> None:
    text = json.dumps(document, indent=2)
    with printing():
        typer.echo(text.replace("\x7f", "\\u007f"))  # the only control character that json does not escape


@contextmanager
def _exit_statuses() -> Iterator[None]:
    """Turn errors that stop every image into exit statuses."""
    try:
        yield
    except (ImageError, RequestError, UnavailableError, OutputError, MisplacedProgramError) as error:
        print_error(error)
        raise typer.Exit(1 if isinstance(error, (UnavailableError, MisplacedProgramError)) else 3) from None
