"""The command `fullconv-convert`."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converter.errors import ConversionError, OptionError
from converter.progress import Progress
from converter.request import MAX_WINDOWS, MIN_AGREEMENT, Activation, Precision, Request
from fullconv import __version__
from fullconv.common.interruption import Interruption
from fullconv.common.loading import end_loading
from fullconv.common.text import printable

if TYPE_CHECKING:
    from converter.report import Report

WINDOW = re.compile(r"([0-9]{1,4})(?:x([0-9]{1,4}))?")
STRIDE = re.compile(r"[1-9][0-9]{0,4}")
FLAGS = {"target": "-o"}
"""Options whose flag is not the parameter's name with dashes."""

SourceFile = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="The trained classifier: a state_dict (.safetensors, .pth, .pt, .bin, .ckpt), an ONNX file or a Caffe "
        "network (.caffemodel). If PyTorch or Keras is installed, also TorchScript (.pt), an exported program (.pt2), "
        "a saved Keras model (.keras, .h5), or a folder of Hugging Face or WSInfer that holds config.json. Python code "
        "from the source runs only with --trust.",
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="models/NAME/1", help="Directory of the model version to create.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an existing version. Its directory must hold only converted files.")
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME | FILE.toml | FILE.prototxt | torchvision:NAME | timm:NAME | hf:FOLDER | MODULE:FACTORY",
        help="The checkpoint's network. Default: the shipped architecture, or else the network of torchvision or timm, "
        "that has the checkpoint's tensors. For a state_dict: the name of a network (resnet18, vgg16; "
        "docs/architectures.md lists those that need no PyTorch) or a TOML file that lists the layers; if PyTorch is "
        "installed, a classifier of its libraries (torchvision:resnet50, timm:resnet50d), a folder of Hugging Face "
        "with config.json (hf: stands for the source's folder), or a function that returns a module "
        "(mypackage.nets:build, also from the current directory). The function is run. "
        "For a caffemodel: its prototxt. Default: the prototxt beside it.",
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="224 | HxW",
        help="Height and width in pixels of the images that the network was trained on. Default: the size "
        "that the architecture, the file, torchvision or the module's attribute `window` gives.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="imagenet | caffe | unit | none | FILE.json",
        help="Preprocessing that turns pixel values x from 0 to 255 into the network's input. It becomes part of the "
        "model. imagenet: RGB, (x/255 − mean)/std; caffe: BGR, x − mean; unit: x/255; none: x; FILE.json: an object "
        'with "scale", "mean", "std", "order" and "dtype", (x·scale − mean)/std. '
        "Default: the preprocessing of the architecture or of torchvision; none for other modules and for "
        "files that contain their network.",
    ),
]
ActivationChoice = Annotated[
    Activation | None,
    typer.Option(
        help="Function that turns scores into probabilities, if the network has no activation at its end. Default: "
        "softmax; with one class, sigmoid. With one class, softmax is refused, because the probability would always "
        "be 1."
    ),
]
Scores = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the output that holds the class scores. Needed if several outputs have one row of numbers.",
    ),
]
Also = Annotated[
    list[str],
    typer.Option(
        metavar="NAME",
        help="Name of a further output to keep, such as the offsets of boxes or an embedding: one row of numbers for "
        "each window. Answers with a grid have its values too. May be given several times.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Names of the classes, in UTF-8, one per line; a colour for pictures may follow each (tumour #c01040). "
        "Default: the labels that the source states.",
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Micrometres per pixel of the training images (0.5 for slides at 20×). Kept in the model. Default: the "
        "value in the source, or unknown.",
    ),
]
Card = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.md",
        help="The model's card, in Markdown: what it is for, how it was trained, what it cannot do. Kept in the model; "
        "fullconv-score --model NAME --describe shows it.",
    ),
]
Verify = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=MAX_WINDOWS,
        help="Number of windows, chosen at random, on which the result is compared with the source. All windows of "
        "the images are compared if this takes little longer. Default: 256; without --images, fewer for a network "
        "whose windows are expensive (16 for VGG-16).",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of images on which the result is compared with the source, at their own size. Images that cannot "
        "be read are left out. Default: noise "
        "with the spectrum of photographs, and scikit-learn's two photographs if it is installed.",
    ),
]
Strides = Annotated[
    str | None,
    typer.Option(
        metavar="32,16,8",
        help="Pixels between windows: divisors or multiples of the network's own stride. Each stride gets a model "
        "file; the files share the weights. With --crops-only: one stride. Default: the network's own stride; with "
        "--crops-only, half a window.",
    ),
]
CropsOnly = Annotated[
    bool,
    typer.Option(
        "--crops-only",
        help="Do not rewrite the network; images are then scored window by window. For networks that cannot slide "
        "(attention, squeeze-and-excite).",
    ),
]
PrecisionChoice = Annotated[
    Precision,
    typer.Option(
        help="Precision of weights and computation. fp16 halves the size of the files. int8 reduces it to a quarter "
        "and runs faster; it is calibrated on --images. The difference from fp32 is measured.",
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Smallest share of windows, from 0 to 1, on which fp16 or int8 must name the same top class as fp32. "
        f"Default: {MIN_AGREEMENT}.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load a pickled PyTorch module, saved with torch.save(model). THIS RUNS THE CODE THAT THE FILE NAMES: "
        "only for files of people whom you trust. Needs PyTorch and the module's own code.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print report.json instead of tables.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
interruption = Interruption("fullconv-convert")


def main(*, silent: bool = False) -> None:
    """Run the command; Ctrl-C or a termination signal ends it with status 1, and no incomplete output is left.

    `silent` says that the parent of this process prints that it was interrupted.
    """
    interruption.silent = silent
    interruption.install()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"fullconv-convert {__version__}")
        return
    try:
        app()
    except (MemoryError, OSError) as error:
        sys.exit(f"fullconv-convert: {error or 'out of memory'}")


@app.command(epilog="fullconv-convert --version prints the version.")
def convert(
    source: SourceFile,
    output: Output,
    *,
    force: Force = Request.force,
    arch: Arch = None,
    window: Window = None,
    preprocess: Preprocess = Request.preprocess,
    activation: ActivationChoice = Request.activation,
    scores: Scores = Request.scores,
    also: Also = Request.also,  # type: ignore[assignment]  # typer knows lists only
    labels: Labels = None,
    mpp: Mpp = Request.mpp,
    card: Card = Request.card,
    verify: Verify = Request.windows,
    images: Images = Request.images,
    strides: Strides = None,
    crops_only: CropsOnly = Request.crops_only,
    precision: PrecisionChoice = Request.precision,
    min_agreement: MinAgreement = Request.min_agreement,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Convert a trained classifier to a network that slides over images of any size.

    The first fully connected layer becomes a convolution as large as the feature map, and the later fully connected
    layers become 1×1 convolutions. The result is compared with the source and then written to the files model.onnx,
    weights.data, labels.txt and report.json.

    fullconv-convert vgg16.pth -o models/vgg16/1
    """
    from converter.convert import convert_checkpoint

    end_loading()
    with _refusals(), _progress() as progress:
        report = convert_checkpoint(
            source,
            output,
            arch=arch,
            window=_parse_window(window),
            preprocess=preprocess,
            activation=activation,
            scores=scores,
            also=also,
            labels=labels,
            mpp=mpp,
            card=card,
            verify=verify,
            images=images,
            strides=_parse_strides(strides),
            crops_only=crops_only,
            precision=precision,
            min_agreement=min_agreement,
            trust=trust,
            force=force,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.document(), indent=2))
    else:
        _show(report, output)


@contextmanager
def _refusals() -> Iterator[None]:
    """Print the reason of a failed conversion on one line; exit status 2 for a wrong option, else 3."""
    try:
        yield
    except OptionError as error:
        flag = FLAGS.get(error.option, f"--{error.option.replace('_', '-')}")
        raise typer.BadParameter(error.problem, param_hint=flag) from None
    except ConversionError as error:
        typer.echo(printable(f"fullconv-convert: {error}"), err=True)
        raise typer.Exit(3) from None


def _show(report: "Report", output: Path) -> None:
    """Print the report as tables."""
    from fullconv.common.console import result_console

    console = result_console()
    if report.rewrites:
        console.print(report.layers(), "")
    console.print(report.facts(), "")
    console.print(f"written to {output}", "", report.closing(), sep="\n", markup=False)


def _parse_window(text: str | None) -> tuple[int, int] | None:
    """Return --window as (height, width) in pixels."""
    if text is None:
        return None
    match = WINDOW.fullmatch(text)
    if not match:
        raise typer.BadParameter(
            f"expected pixels from 1 to 9999, 224 or HEIGHTxWIDTH, got '{text}'", param_hint="--window"
        )
    return int(match[1]), int(match[2] or match[1])


def _parse_strides(text: str | None) -> tuple[int, ...]:
    """Return --strides, which are separated by commas, in pixels."""
    parts = text.split(",") if text is not None else []
    if not all(STRIDE.fullmatch(part) for part in parts):
        raise typer.BadParameter(f"expected pixels from 1 to 99999, like 32,16,8, got '{text}'", param_hint="--strides")
    return tuple(int(part) for part in parts)


def _warn(line: str) -> None:
    typer.echo(printable(f"fullconv-convert: warning: {line}"), err=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show progress on standard error: a bar on a terminal, else one line per step. Standard output is for --json."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Progress(lambda name, _: typer.echo(f"{name} …", err=True), interruption.check, _warn)
        return
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")

        def advance() -> None:
            interruption.check()
            bar.advance(task)

        yield Progress(lambda name, windows: bar.reset(task, description=name, total=windows or None), advance, _warn)
