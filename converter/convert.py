"""The main path from a source to a model version.

source → classifier (ONNX) → dense network (`graph.dense`), or unchanged network (`graph.crops`) → preprocessing
       → strides → comparison with the source → quantization and another comparison, if requested → written version
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.graph.converted import ConvertedGraph
from converter.graph.crops import to_crops
from converter.graph.dense import to_dense
from converter.graph.passes.prepend_preprocessing import PrependPreprocessingPass
from converter.graph.passes.quantize import QuantizePass
from converter.graph.scores import keep_outputs
from converter.graph.sharing.variants import cut_variants, shared_variants
from converter.graph.strides import variants, with_stride
from converter.labels import check_labels, load_labels, read_card
from converter.preprocessing import Preprocessing, load_preprocessing
from converter.progress import SILENT, Progress
from converter.report import Report
from converter.request import FULL_PRECISION, Activation, Precision, Request, check_window
from converter.runtime import move_weights, release_weights
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.read import read_source
from converter.spec import describe, embed
from converter.verify.certificates import ModelFiles, Reduction, Reference, certify, default_windows
from converter.verify.checks import CELLS
from converter.verify.cut_margins import measure_cut_margins
from converter.verify.given_images import GivenImages, given_images
from converter.verify.grid_axis import GridAxis
from converter.verify.images import PixelFormat, image_files, sample_images
from converter.verify.networks import SourceNetwork, graph_input
from converter.verify.shared import compare_shared
from converter.writer import check_outside, check_target, staging
from fullconv.common.model_files import LABELS, REPORT, WEIGHTS
from fullconv.protos import model_pb2

if TYPE_CHECKING:
    import keras
    import torch

__all__ = ["Progress", "Report", "Request", "convert", "convert_checkpoint"]

SOURCE_WEIGHTS = "source.data"
CALIBRATION_IMAGES = 32
CALIBRATION_SEED = 2  # the certificate uses another seed, and so other crops


def convert_checkpoint(  # noqa: PLR0913 (one parameter for each option of the command)
    source: "str | PathLike[str] | torch.nn.Module | keras.Model",
    target: str | PathLike[str],
    *,
    arch: str | PathLike[str] | None = None,
    window: int | tuple[int, int] | None = None,
    preprocess: str | PathLike[str] | None = Request.preprocess,
    activation: Activation | None = Request.activation,
    scores: str | None = Request.scores,
    also: str | Sequence[str] = Request.also,
    labels: str | PathLike[str] | Sequence[str] | None = Request.labels,
    mpp: float | None = Request.mpp,
    card: str | PathLike[str] | None = Request.card,
    verify: int | None = Request.windows,
    images: str | PathLike[str] | None = Request.images,
    strides: Sequence[int] = Request.strides,
    crops_only: bool = Request.crops_only,
    precision: Precision = Request.precision,
    min_agreement: float | None = Request.min_agreement,
    trust: bool = False,
    force: bool = Request.force,
    progress: Progress | None = None,
) -> Report:
    """Convert a trained classifier to a network that scores images of any size, and write it as a model version.

        report = convert_checkpoint("vgg16.pth", "models/vgg16/1", images="photographs", strides=[16, 8])

    `source` is a path that the command `fullconv-convert` reads, a module of PyTorch, or a model of Keras; `target` is
    the version's directory, which ends in NAME/VERSION. The other parameters are the command's options:

    arch, window: the architecture, and its side or (height, width) in pixels, if the source does not state them.
    preprocess, activation: the meaning of pixels and scores. Default: the meaning that the source states.
    scores: the name of the output that holds the class scores, if the network has several.
    also: names of further outputs, such as offsets of boxes, whose values for every window are kept too.
    labels: a file with the names of the classes, or the names themselves.
    mpp, card: micrometres per pixel of the training images; a Markdown file that describes the model.
    verify, images: the number of windows to compare, and the folder of their images. Default: 256 windows; without
        images, up to 256 windows of synthetic images.
    strides, crops_only: pixels between windows; whether to keep a network that cannot slide and run it on windows.
    precision, min_agreement: precision of the weights, and the least share of windows with the top class of fp32.
    trust: load a pickled PyTorch module, which runs its code.
    force: replace an existing version. progress: called during the conversion.

    Returns the report: which layers were rewritten, and how far the result agrees with the source. Raises
    ConversionError if nothing was written; for a wrong parameter, this is an OptionError.
    """
    request = Request(
        Path(target),
        force=force,
        preprocess=None if preprocess is None else str(preprocess),
        activation=activation,
        scores=scores,
        also=(also,) if isinstance(also, str) else tuple(dict.fromkeys(also)),
        labels=_as_labels(labels),
        mpp=mpp,
        card=None if card is None else Path(card),
        windows=verify,
        images=None if images is None else Path(images),
        strides=tuple(strides),
        crops_only=crops_only,
        precision=precision,
        min_agreement=min_agreement,
    )
    progress = progress or SILENT
    check_target(request.target, force=request.force)
    inputs = {
        "the source": source if isinstance(source, str | PathLike) else None,
        "--arch": arch,
        "--labels": request.labels if isinstance(request.labels, Path) else None,
        "--card": request.card,
        "--images": request.images,
        "--preprocess": request.preprocess,
    }
    check_outside(request.target, inputs)
    _check_files(request)
    progress.step("reading the source", 0)
    classifier = read_source(source, arch=None if arch is None else str(arch), window=check_window(window), trust=trust)
    return convert(classifier, request, progress)


def _check_files(request: Request) -> None:
    """Refuse files of options that cannot be read, before the source is read; raises ConversionError."""
    if request.images is not None:
        image_files(request.images)
    if request.preprocess is not None:
        load_preprocessing(request.preprocess)
    if isinstance(request.labels, Path):
        check_labels(request.labels)
    if request.card is not None:
        read_card(request.card)


def _as_labels(given: str | PathLike[str] | Sequence[str] | None) -> Path | tuple[str, ...] | None:
    """Return the path of a file of labels, or the labels themselves."""
    if isinstance(given, str | PathLike):
        return Path(given)
    return None if given is None else tuple(given)


def convert(classifier: Classifier, request: Request, progress: Progress) -> Report:
    """Convert, verify and write a classifier; raises ConversionError, and then leaves no file."""
    preprocessing = load_preprocessing(classifier.preprocess if request.preprocess is None else request.preprocess)
    if preprocessing is not None and classifier.image.dtype == ir.DataType.UINT8:
        raise SourceError(
            "preprocess: expected none for a network that takes and preprocesses uint8 pixels; leave --preprocess out"
        )
    with staging(request.target, force=request.force) as folder, tempfile.TemporaryDirectory(dir=folder) as name:
        progress.step("rewriting the network", 0)
        scratch = Path(name)
        for model in (classifier.original, classifier.model):
            keep_outputs(model, request.scores, request.also)
        move_weights([classifier.original, classifier.model], scratch, SOURCE_WEIGHTS)
        source = SourceNetwork(classifier, preprocessing, scratch)
        network = _rewrite(classifier, preprocessing, request, scratch)
        pixel_format = PixelFormat(network.channels, preprocessing)
        images = given_images(request.images, pixel_format, classifier.window, progress) if request.images else None
        home = folder if request.precision == FULL_PRECISION else scratch
        move_weights([network.model], home, WEIGHTS)
        release_weights(classifier.original)
        in_float = _files(network, classifier.window, request, home, pixel_format)
        spec = _described(classifier, network, in_float, request, folder)

        windows = request.windows or default_windows(network, given=images is not None)
        reference = Reference(source, images=images, windows=windows, output=spec.output)
        files, certificates = _certified(reference, in_float, request, progress, folder)
        cut_files = measure_cut_margins(reference, files, progress)
        may_round = request.precision != FULL_PRECISION or source.quantizes
        del reference, source  # the weights are in memory once for each network that is loaded
        shared = compare_shared(files, spec.output, progress, may_round=may_round)
        spec.shared.extend([*shared.files, *cut_files])
        if shared.files:
            spec.modes.insert(1, "shared")

        progress.step("writing", 0)
        spec.precision = request.precision
        spec.parity.extend(certificates)
        report = Report(
            spec,
            network.rewrites,
            given=images is not None,
            skipped=images.smaller if images else 0,
            unreadable=images.unreadable if images else (),
            removed=shared.removed,
            notes=(*classifier.notes, *_assumptions(classifier, request)),
        )
        _write_report(report, folder)
    return report


def _assumptions(classifier: Classifier, request: Request) -> tuple[str, ...]:
    """Return a note on the fields of a classifier that neither its source nor an option states."""
    height, width = classifier.window
    phrases = {
        "window": f"the window ({height}×{width} pixels)",
        "preprocess": "the preprocessing" if request.preprocess is None else "",
        "activation": "the activation" if request.activation is None else "",
    }
    fields = [phrase for field in classifier.assumed if (phrase := phrases[field])]
    if not fields:
        return ()
    *most, last = fields
    listed = f"{', '.join(most)} and {last} are the defaults" if most else f"{last} is the default"
    return (f"{listed} of {classifier.assumed_from}",)


def _rewrite(
    classifier: Classifier, preprocessing: Preprocessing | None, request: Request, scratch: Path
) -> ConvertedGraph:
    """Return the network as it will be served at its native stride, preprocessing included."""
    model, window, layout = classifier.model, classifier.window, classifier.layout
    if request.crops_only:
        network = to_crops(model, window, layout, scratch, stride=next(iter(request.strides), None))
    else:
        network = to_dense(model, window, layout, scratch)
    if preprocessing is not None:
        preprocessing.check_channels(network.channels)
        PrependPreprocessingPass(preprocessing, network.channels, layout)(network.model)
        network = replace(network, layout="NHWC")
    return network


def _files(
    network: ConvertedGraph, window: tuple[int, int], request: Request, home: Path, pixel_format: PixelFormat
) -> ModelFiles:
    """Return the files of a model in float32: the network at every stride, and those of mode shared."""
    made = variants(network, request.strides, window)
    sharing = shared_variants(network, window)
    cut = cut_variants(network, window, sharing) if request.images is not None else ()
    return ModelFiles(network, window, made, home, pixel_format, sharing, cut)


def _described(
    classifier: Classifier, network: ConvertedGraph, in_float: ModelFiles, request: Request, folder: Path
) -> model_pb2.ModelSpec:
    """Return the description of a model without what is measured, and write its labels."""
    spec = describe(request.name, classifier, network, in_float, request.activation)
    preprocessing = in_float.pixel_format.preprocessing
    if preprocessing is not None:
        spec.input.preprocessing.CopyFrom(preprocessing.message())
    _write_labels(spec, request, classifier, folder)
    spec.microns_per_pixel = request.mpp or classifier.microns_per_pixel
    spec.card = "" if request.card is None else read_card(request.card)
    return spec


def _write_labels(spec: model_pb2.ModelSpec, request: Request, classifier: Classifier, folder: Path) -> None:
    """Write labels.txt, if there are labels."""
    labels, colours = load_labels(request.labels, classifier.labels, spec.output.classes)
    spec.colours.extend(colours)
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
        spec.labels_sha256 = sha256(folder / LABELS)


def _certified(
    reference: Reference, in_float: ModelFiles, request: Request, progress: Progress, folder: Path
) -> tuple[ModelFiles, list[model_pb2.Parity]]:
    """Return the files in the requested precision, and their certificates; raises VerificationError."""
    certificates = certify(reference, in_float, None, progress)
    if request.precision == FULL_PRECISION:
        return in_float, certificates
    files = _quantize(in_float, reference.images, request, progress, folder)
    return files, certify(reference, files, Reduction(request.precision, in_float, request.least_agreement), progress)


def _quantize(
    in_float: ModelFiles, images: GivenImages | None, request: Request, progress: Progress, folder: Path
) -> ModelFiles:
    """Return the same files in the requested precision, with their weights in a folder."""
    progress.step(f"reducing the precision to {request.precision}", 0)
    native, *others = in_float.variants
    feeds = _calibration_feeds(in_float, images, request, progress)
    quantize = QuantizePass(request.precision, feeds, in_float.folder)
    model = quantize(native.model).model
    move_weights([model], folder, WEIGHTS)
    models = [model, *(with_stride(model, each.geometry.vertical.stride, in_float.window)[0] for each in others)]
    variants = [replace(variant, model=own) for variant, own in zip(in_float.variants, models, strict=True)]
    graph = replace(in_float.graph, model=model)
    shared = shared_variants(graph, in_float.window)
    cut = cut_variants(graph, in_float.window, shared) if in_float.cut else ()
    return replace(in_float, variants=variants, folder=folder, shared=shared, cut=cut)


def _calibration_feeds(
    in_float: ModelFiles, given: GivenImages | None, request: Request, progress: Progress
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield the inputs for the calibration of a network: windows, for int8 with the pixels around them."""
    native, rng = in_float.variants[0], np.random.default_rng(CALIBRATION_SEED)
    height, width = in_float.window
    if in_float.graph.mode == "dense" and request.precision == "int8":
        axes = zip(native.geometry, in_float.window, strict=True)
        height, width = (GridAxis.with_interior(axis, size, CELLS).pixels for axis, size in axes)
    images = sample_images((height, width), in_float.pixel_format, given.readable if given else None, rng)
    for image in islice(images, CALIBRATION_IMAGES):
        yield graph_input(native.model.graph.inputs[0], image, in_float.graph.layout)
        progress.advance()


def _write_report(report: Report, folder: Path) -> None:
    """Complete the ModelSpec, and write it into every file and into report.json."""
    report.spec.weights_sha256 = sha256(folder / WEIGHTS)
    spec = report.spec
    for name in [*(entry.file for entry in spec.strides), *(entry.file for entry in spec.shared)]:
        embed(spec, folder / name)
    document = json.dumps(report.document(), indent=2, ensure_ascii=False)
    (folder / REPORT).write_text(f"{document}\n", "utf-8")
