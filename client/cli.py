"""The command `fullconv-score`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from client.answer import AVERAGES
from client.errors import RequestError, UnavailableError
from client.interruption import Interruption
from client.job import STEM, Job, Scorer
from client.remote import Client
from protos import scoring_pb2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
interruption = Interruption("fullconv-score")


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
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Score on a fullconv-serve. [default: in this process]")
    ] = None,
    models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The model repository to score with here. [default: models]")
    ] = None,
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
    _check_names(images, {"--grid": grid, "--heatmap": heatmap})
    if server and models:
        raise typer.BadParameter("expected one of --server and --models, got both", param_hint="--server")
    options = scoring_pb2.ScoreOptions(
        average={name: value for value, name in AVERAGES.items()}[average],
        top=top,
        classes=[name.strip() for name in (classes or "").split(",") if name.strip()],
        grid=bool(server and (grid or heatmap)),
    )
    request = scoring_pb2.ScoreRequest(model=model, version=version, options=options)
    try:
        scorer = _scorer(server, models)
        if average == "probabilities" and scorer.model(model, version).spec.output.kind == "raw":
            raise typer.BadParameter(f"model {model!r} has raw scores, no probabilities", param_hint="--average")
        answers = Job(scorer, request, grid, heatmap, interruption.check).run(images, quiet=as_json)
    except (RequestError, UnavailableError) as error:
        typer.echo(f"fullconv-score: {error}", err=True)
        raise typer.Exit(3 if isinstance(error, RequestError) else 1) from None
    if as_json:
        typer.echo(json.dumps(answers if len(images) > 1 else answers[0], indent=2, ensure_ascii=False))
    if any("error" in answer for answer in answers):
        raise typer.Exit(3)


def _check_names(images: list[Path], outputs: dict[str, str | None]) -> None:
    """Refuse one output name for several images."""
    for option, name in outputs.items():
        if name and len(images) > 1 and STEM not in name:
            raise typer.BadParameter(f"expected {STEM} in the name for several images, got '{name}'", param_hint=option)


def _scorer(server: str | None, models: Path | None) -> Scorer:
    if server:
        return Client(server)
    from client.local import LocalScorer  # noqa: PLC0415 (ONNX Runtime and the service, which a client does without)

    return LocalScorer(models or Path("models"))
