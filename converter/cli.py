"""The command `fullconv-convert`."""

import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from converter import convert as conversion
from converter.errors import ConversionError
from converter.report import Report
from converter.sources.read import read_source
from converter.writer import check_outside, check_target
from fullconv import __version__
from fullconv.common.model_files import NAME, VERSION

STRIDE = re.compile(r"[1-9][0-9]{0,4}")
WINDOW = re.compile(r"([0-9]{1,4})(?:x([0-9]{1,4}))?")

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A state_dict (.safetensors, .pth), ONNX classifier or Caffe network (.caffemodel); with PyTorch or Keras "
        "installed, an exported program (.pt2) or a saved model (.keras, .h5). No code from a file is run.",
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="models/NAME/1", help="The model's version directory to make.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the version if it exists and holds nothing else.")]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME | FILE.toml | FILE.prototxt | torchvision:NAME | MODULE:FACTORY",
        help="The checkpoint's network: a shipped one (alexnet, vgg11 to vgg19_bn, alexnet2012, cifar10_80sec, "
        "cifar10_18pct, allcnn_c) or a list of its layers; recognised by the checkpoint's keys unless told. "
        "A caffemodel's prototxt; the one beside it unless told. With PyTorch installed, one of torchvision's "
        "classifiers (torchvision:resnet50), or what a function makes (mypackage.nets:build, which may lie in the "
        "current directory): that runs the module's code, but nothing of the checkpoint.",
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="224 | HxW",
        help="Pixels that the network was trained on; what the network or file, torchvision or the module's attribute "
        "`window` says unless told.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="imagenet | caffe | unit | none | FILE.json",
        help="What turns pixels 0 to 255 into the network's input; goes into the graph. The network's own or "
        "torchvision's unless told, none for other modules and files that hold their network.",
    ),
]
Activation = Annotated[
    Literal["softmax", "sigmoid", "none"] | None,
    typer.Option(help="What turns scores into probabilities, if the network does not; softmax unless told."),
]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="The classes' names, UTF-8, one a line.")]
Verify = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        max=10_000,
        help="Windows to compare dense and crops on, chosen at random; all windows of the images where that takes "
        "little more.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Images to take the windows from, at their own size; without them noise like photographs, and "
        "scikit-learn's photographs where it is installed.",
    ),
]
Strides = Annotated[
    str | None,
    typer.Option(
        metavar="32,16,8",
        help="Pixels between windows: files for other strides than the network's own, its divisors or multiples, all "
        "with the same weights. With --crops-only: one, how far windows lie apart.",
    ),
]
CropsOnly = Annotated[
    bool,
    typer.Option(
        "--crops-only",
        help="Keep a network that cannot slide (attention, squeeze-and-excite) as it is, to be run window by window.",
    ),
]
Precision = Annotated[
    Literal["fp32", "fp16", "int8"],
    typer.Option(
        help="Of weights and computation: fp16 halves the files; int8 makes them a quarter and runs faster, its ranges "
        "measured on --images. What it changes is measured too."
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Of the windows, on how many reduced precision must name the same top class, 0 to 1; "
        f"{conversion.MIN_AGREEMENT} unless told.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print report.json instead of tables.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    """Run the command; Ctrl-C or a termination signal ends it with status 1 and nothing half-written."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"fullconv-convert {__version__}")
        return
    try:
        app()
    except (MemoryError, OSError) as error:
        sys.exit(f"fullconv-convert: {error or 'out of memory'}")


_interrupted = threading.Event()


def _interrupt(*_: object) -> None:
    """End the command; a call back out of libvips may swallow that, so that the next window asks again."""
    _interrupted.set()
    sys.exit("fullconv-convert: interrupted")


def _check_interrupted() -> None:
    if _interrupted.is_set():
        _interrupt()


@app.command()
def convert(
    source: Source,
    output: Output,
    *,
    force: Force = False,
    arch: Arch = None,
    window: Window = None,
    preprocess: Preprocess = None,
    activation: Activation = None,
    labels: Labels = None,
    verify: Verify = conversion.Request.windows,
    images: Images = None,
    strides: Strides = None,
    crops_only: CropsOnly = False,
    precision: Precision = "fp32",
    min_agreement: MinAgreement = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite a trained classifier so that it slides over images of any size.

    The first fully connected layer becomes a convolution as large as the map it sees, the later ones 1×1. The result
    is compared with the source before it is written: model.onnx, weights.data, labels.txt and report.json.

    fullconv-convert vgg16.pth -o models/vgg16/1
    """
    _check_output(output)
    pixels = _pixels(strides, single=crops_only)
    least = _agreement(precision, images, min_agreement)
    request = conversion.Request(
        target=output,
        force=force,
        preprocess=preprocess,
        activation=activation,
        labels=labels,
        windows=verify,
        images=images,
        strides=pixels,
        crops_only=crops_only,
        precision=precision,
        min_agreement=least,
    )
    with _refusals(), _progress() as progress:
        check_target(output, force=force)
        inputs = {
            "the source": source,
            "--arch": arch,
            "--labels": labels,
            "--images": images,
            "--preprocess": preprocess,
        }
        check_outside(output, inputs)
        progress.step("reading the source", 0)
        classifier = read_source(source, arch=arch, window=_size(window))
        report = conversion.convert(classifier, request, progress)
    if as_json:
        typer.echo(json.dumps(report.document(), indent=2))
    else:
        _show(report, output)


@contextmanager
def _refusals() -> Iterator[None]:
    """Say in one line why there is no conversion: status 3."""
    try:
        yield
    except ConversionError as error:
        text = "".join(letter if letter.isprintable() else "?" for letter in f"fullconv-convert: {error}")
        typer.echo(text, err=True)
        raise typer.Exit(3) from None


def _show(report: Report, output: Path) -> None:
    console = Console(highlight=False)
    if report.rewrites:
        console.print(report.layers(), "")
    console.print(report.facts(), "")
    console.print(f"written to {output}", "", report.closing(), sep="\n", markup=False)


def _check_output(output: Path) -> None:
    resolved = output.absolute()
    if not NAME.fullmatch(resolved.parent.name) or not VERSION.fullmatch(resolved.name):
        raise typer.BadParameter(
            "expected a path that ends in NAME/VERSION, NAME of letters a to z, digits, '.', '_' and '-', VERSION a "
            f"number from 1, got '{output}'",
            param_hint="-o",
        )


def _size(text: str | None) -> tuple[int, int] | None:
    """Parse --window: height and width in pixels."""
    if text is None:
        return None
    match = WINDOW.fullmatch(text)
    if not match or 0 in (int(match[1]), int(match[2] or match[1])):
        raise typer.BadParameter(
            f"expected pixels from 1 to 9999, 224 or HEIGHTxWIDTH, got '{text}'", param_hint="--window"
        )
    return int(match[1]), int(match[2] or match[1])


def _pixels(text: str | None, *, single: bool) -> tuple[int, ...]:
    """Parse --strides: pixels, separated by commas."""
    parts = text.split(",") if text is not None else []
    if not all(STRIDE.fullmatch(part) for part in parts):
        raise typer.BadParameter(f"expected pixels from 1 to 99999, like 32,16,8, got '{text}'", param_hint="--strides")
    if single and len(parts) > 1:
        raise typer.BadParameter(f"expected one with --crops-only, got '{text}'", param_hint="--strides")
    return tuple(int(part) for part in parts)


def _agreement(precision: str, images: Path | None, least: float | None) -> float:
    """Check what --precision needs; returns the least agreement with fp32."""
    if precision == "int8" and images is None:
        raise typer.BadParameter(
            "int8 is calibrated on images like those to be scored: name their folder with --images",
            param_hint="--precision",
        )
    if least is not None and precision == "fp32":
        raise typer.BadParameter("expected with --precision fp16 or int8 only", param_hint="--min-agreement")
    if least is not None and not 0 <= least <= 1:
        raise typer.BadParameter(f"expected a share from 0 to 1, got {least}", param_hint="--min-agreement")
    return conversion.MIN_AGREEMENT if least is None else least


@contextmanager
def _progress() -> Iterator[conversion.Progress]:
    """A bar on a terminal; elsewhere a line for each step. On standard error, for --json's sake."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield conversion.Progress(lambda name, _: typer.echo(f"{name} …", err=True), _check_interrupted)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")

        def advance() -> None:
            _check_interrupted()
            bar.advance(task)

        yield conversion.Progress(
            lambda name, windows: bar.reset(task, description=name, total=windows or None), advance
        )
