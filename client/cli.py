"""The command `fullconv-score`."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from client.answer import document, failure
from client.files import OutputError
from client.grid import Rows, grid_file
from client.interruption import Interruption
from client.progress import Progress, progress
from client.table import table
from protos import scoring_pb2
from service.errors import ImageError, OptionError, ServiceError
from service.images.picture import open_file
from service.scoring import Scorer, choose_classes

STEM = "{stem}"
AVERAGES = {
    "scores": scoring_pb2.AVERAGE_OF_SCORES,
    "probabilities": scoring_pb2.AVERAGE_OF_PROBABILITIES,
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
interruption = Interruption("fullconv-score")


@dataclass(frozen=True)
class Outputs:
    """Where each image's grid and heatmap go; `{stem}` stands for the image's name without its suffix."""

    grid: str | None
    heatmap: str | None

    def check(self, images: int) -> None:
        """Refuse one name for several images."""
        for option, name in (("--grid", self.grid), ("--heatmap", self.heatmap)):
            if name and images > 1 and STEM not in name:
                raise typer.BadParameter(
                    f"expected {STEM} in the name for several images, got '{name}'", param_hint=option
                )


def main() -> None:
    """Run the command; Ctrl-C or a termination signal ends it with status 1 and nothing half-written."""
    interruption.install()
    app()


@app.command()
def score(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG, WebP or TIFF files.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="The model to score with.")],
    *,
    version: Annotated[str, typer.Option(metavar="V", help="Its version. [default: the highest]")] = "",
    models: Annotated[Path, typer.Option(metavar="DIR", help="The model repository.")] = Path("models"),
    average: Annotated[
        Literal["scores", "probabilities"], typer.Option(help="What is averaged over the windows.")
    ] = "scores",
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many classes to name.")] = 5,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Answer with these only: labels or indices. [default: all]")
    ] = None,
    grid: Annotated[str | None, typer.Option(metavar="OUT.npz", help="Write every window's scores.")] = None,
    heatmap: Annotated[
        str | None, typer.Option(metavar="OUT.png", help="Write the image with the winning classes over it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score images of any size with a converted model.

    Every window of the image gets a score for each class; the averages over all windows are printed. For several
    images the names given to --grid and --heatmap must contain {stem}.

    fullconv-score page.png --model digits --heatmap page-heatmap.png
    """
    outputs = Outputs(grid, heatmap)
    outputs.check(len(images))
    options = scoring_pb2.ScoreOptions(
        average=AVERAGES[average],
        top=top,
        classes=[name.strip() for name in (classes or "").split(",") if name.strip()],
    )
    request = scoring_pb2.ScoreRequest(model=model, version=version, options=options)
    scorer = Scorer(models)
    try:
        choose_classes(scorer.model(model, version), options)
        answers = _score_all(scorer, images, request, outputs, quiet=as_json)
    except ServiceError as error:
        typer.echo(f"fullconv-score: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, OptionError) else 3) from None
    if as_json:
        typer.echo(json.dumps(answers if len(images) > 1 else answers[0], indent=2, ensure_ascii=False))
    if any("error" in answer for answer in answers):
        raise typer.Exit(3)


def _score_all(
    scorer: Scorer, images: list[Path], request: scoring_pb2.ScoreRequest, outputs: Outputs, *, quiet: bool
) -> list[dict[str, Any]]:
    """Score one image after the other; one that cannot be scored becomes an entry with its error."""
    answers, console = [], Console(highlight=False)
    with progress() as advance:
        for image in images:
            try:
                response = _score_one(scorer, image, request, outputs, advance)
            except (ImageError, OutputError) as error:
                typer.echo(f"fullconv-score: {error}", err=True)
                answers.append(failure(image.name, error))
                continue
            answers.append(document(response))
            if not quiet:
                console.print(table(response), "")
    return answers


def _score_one(
    scorer: Scorer, image: Path, request: scoring_pb2.ScoreRequest, outputs: Outputs, advance: Progress
) -> scoring_pb2.ScoreResponse:
    run = scorer.plan(open_file(image), request)
    sinks: list[Rows] = []
    with ExitStack() as stack:
        if outputs.grid:
            sinks.append(stack.enter_context(grid_file(_named(outputs.grid, image), run.response)))
        if outputs.heatmap:
            from client.heatmap import heatmap_file  # noqa: PLC0415 (matplotlib takes a second to load)

            sinks.append(stack.enter_context(heatmap_file(_named(outputs.heatmap, image), image, run.response)))
        for first, scores in run.bands():
            for sink in sinks:
                sink(first, scores)
            interruption.check()
            advance(run.picture.name, first + len(scores), run.response.grid.rows)
        return run.answer()


def _named(name: str, image: Path) -> Path:
    return Path(name.replace(STEM, image.stem))
