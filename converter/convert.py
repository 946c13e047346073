"""The main path: a source in, a model version out.

reader → classifier (ONNX) → lifted (graph.dense) or kept (graph.crops) → preprocessing → strides → verified
       → precision reduced, if wanted, and verified again → written
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError, UnsupportedError
from converter.graph.converted import ConvertedGraph
from converter.graph.crops import to_crops
from converter.graph.dense import to_dense
from converter.graph.passes.prepend_preprocessing import PrependPreprocessingPass
from converter.graph.passes.quantize import QuantizePass
from converter.graph.scores import scores_position
from converter.graph.strides import Variant, variants, with_stride
from converter.labels import load_labels
from converter.preprocessing import Preprocessing, load_preprocessing
from converter.report import Report
from converter.runtime import loading_problem, move_weights, unmap
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.spec import describe, embed
from converter.verify.checks import CELLS
from converter.verify.comparison import Comparison
from converter.verify.extent import Extent
from converter.verify.images import SampleImage, Wanted, given_images, sample_images
from converter.verify.networks import ConvertedNetwork, CropsNetwork, Network, SourceNetwork, feed
from converter.verify.parity import check_agreement, measure
from converter.verify.sampling import Budget
from converter.writer import staging
from fullconv.common.model_files import LABELS, REPORT, WEIGHTS
from fullconv.protos import model_pb2

SOURCE_WEIGHTS = "source.data"
FULL = "fp32"
MIN_AGREEMENT = 0.99
"""Of the windows, on how many reduced precision must name the top class that float32 names."""
PASS_BYTES = 1 << 29
"""Of activations, in a pass over an image or a part of it that windows are compared with."""
MORE_WINDOWS, CHEAP_CROPS = 4, 5e11
"""Times the windows asked for, and multiply-adds of crops, within which all windows of the images are compared."""
CALIBRATION_IMAGES = 32
CALIBRATION_SEED = 2  # other cuttings than the certificate's


@dataclass(frozen=True)
class Request:
    """What to convert to and how; None stands for the classifier's own default."""

    target: Path
    _: KW_ONLY
    force: bool = False
    preprocess: str | None = None
    activation: str | None = None
    labels: Path | None = None
    windows: int = 256
    images: Path | None = None
    strides: tuple[int, ...] = ()
    crops_only: bool = False
    precision: str = FULL
    min_agreement: float = MIN_AGREEMENT


@dataclass(frozen=True)
class Progress:
    """`step` is called at the start of each step with the windows it has ahead, `advance` after every window."""

    step: Callable[[str, int], None]
    advance: Callable[[], None]


@dataclass(frozen=True)
class Stage:
    """A network for windows (height, width) in one precision: its files, where their weights lie, what it takes."""

    graph: ConvertedGraph
    window: tuple[int, int]
    files: Sequence[Variant]
    folder: Path
    wanted: Wanted

    def network(self, file: Variant) -> Network:
        """A file as a function of an image of any size."""
        runner = ConvertedNetwork(file.model, self.graph.layout, self.folder)
        return CropsNetwork(runner, file.geometry, self.window) if self.graph.mode == "crops" else runner


@dataclass(frozen=True)
class Reference:
    """What certificates are measured against: the source, and the user's images, None for synthetic ones.

    `output` says what the scores are.
    """

    source: SourceNetwork
    images: Sequence[SampleImage] | None
    output: model_pb2.Output


def convert(classifier: Classifier, request: Request, progress: Progress) -> Report:
    """Convert, verify and write. Raises ConversionError, and leaves nothing behind, if it cannot."""
    preprocessing = load_preprocessing(request.preprocess or classifier.preprocess)
    if preprocessing is not None and classifier.image.dtype == ir.DataType.UINT8:
        raise SourceError("preprocess: the file takes pixels as uint8 and prepares them itself; leave --preprocess out")
    with staging(request.target, force=request.force) as folder, tempfile.TemporaryDirectory(dir=folder) as name:
        progress.step("rewriting the network", 0)
        scratch, output = Path(name), scores_position(classifier.model.graph)
        move_weights([classifier.original, classifier.model], scratch, SOURCE_WEIGHTS)
        source = SourceNetwork(classifier, output, preprocessing, scratch)
        network = _rewritten(classifier, output, preprocessing, request, scratch)
        home = folder if request.precision == FULL else scratch
        move_weights([network.model], home, WEIGHTS)
        unmap(classifier.original)
        files = variants(network, request.strides, classifier.window)
        spec = describe(request.target.absolute().parent.name, classifier, network, files, request.activation)
        if preprocessing is not None:
            spec.input.preprocessing.CopyFrom(preprocessing.message())
        _label(spec, request, classifier, folder)

        stage = Stage(network, classifier.window, files, home, Wanted(network.channels, preprocessing))
        images, skipped = _images(request, stage)
        reference = Reference(source, images, spec.output)
        certificates = _certificates(reference, stage, None, request, progress)
        if request.precision != FULL:
            full, stage = stage, _reduced(stage, request, progress, folder)
            certificates = _certificates(reference, stage, full, request, progress)

        progress.step("writing", 0)
        spec.weights_sha256, spec.precision = sha256(folder / WEIGHTS), request.precision
        spec.parity.extend(certificates)
        report = Report(spec, network.rewrites, given=images is not None, skipped=skipped)
        for file in stage.files:
            embed(spec, folder / file.name)
        (folder / REPORT).write_text(json.dumps(report.document(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return report


def _rewritten(
    classifier: Classifier, output: int, preprocessing: Preprocessing | None, request: Request, scratch: Path
) -> ConvertedGraph:
    """The network as it will be served at its native stride, preprocessing included."""
    model, window, layout = classifier.model, classifier.window, classifier.layout
    model.graph.outputs[:] = [model.graph.outputs[output]]
    if request.crops_only:
        network = to_crops(model, window, layout, scratch, stride=next(iter(request.strides), None))
    else:
        network = to_dense(model, window, layout, scratch)
    if preprocessing is not None:
        preprocessing.check_channels(network.channels)
        PrependPreprocessingPass(preprocessing, network.channels, layout)(network.model)
        network = replace(network, layout="NHWC")
    return network


def _label(spec: model_pb2.ModelSpec, request: Request, classifier: Classifier, folder: Path) -> None:
    """Write labels.txt, if there are labels."""
    labels = load_labels(request.labels, classifier.labels, spec.output.classes)
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
        spec.labels_sha256 = sha256(folder / LABELS)


def _images(request: Request, stage: Stage) -> tuple[list[SampleImage] | None, int]:
    """The user's images that hold a window, None if there are no images, and how many are smaller."""
    if request.images is None:
        return None, 0
    return given_images(request.images, stage.wanted, stage.window)


def _budget(stage: Stage, file: Variant, windows: int, *, given: bool) -> Budget:
    """How many windows are compared, of given images or synthetic ones, and how large a pass over an image may be."""
    extents = [Extent.around(axis, size, CELLS) for axis, size in zip(file.geometry, stage.window, strict=True)]
    least = math.prod(extent.pixels for extent in extents)
    if stage.graph.mode == "crops":
        return Budget(windows, least, separate=True)
    affordable = min(MORE_WINDOWS * windows, int(CHEAP_CROPS / max(1.0, file.cost.multiply_adds_per_crop)))
    pixels = max(least, int(PASS_BYTES / file.cost.activation_bytes_per_pixel))
    return Budget(windows, pixels, affordable if given else 0)


def _certificates(
    reference: Reference, stage: Stage, full: Stage | None, request: Request, progress: Progress
) -> list[model_pb2.Parity]:
    """Write every file and measure it against the source; of reduced precision, against the one in float32 too."""
    certificates, native = [], None
    for file in stage.files:
        ir.save(file.model, stage.folder / file.name)
    if full and (problem := loading_problem([stage.folder / file.name for file in stage.files])):
        raise UnsupportedError(f"precision: cannot be {request.precision}: {problem}; choose another --precision")
    for position, file in enumerate(stage.files):
        announce = partial(progress.step, f"comparing stride {file.geometry.vertical.stride} with the source")
        converted = stage.network(file)
        comparison = Comparison(
            source=reference.source,
            converted=converted,
            native=native,
            full=full.network(full.files[position]) if full else None,
            geometry=file.geometry,
            window=stage.window,
            wanted=stage.wanted,
            folder=request.images,
            images=reference.images,
            budget=_budget(stage, file, request.windows, given=reference.images is not None),
            output=reference.output,
        )
        certificates.append(measure(comparison, announce, progress.advance))
        if full:
            check_agreement(certificates[-1], request.precision, request.min_agreement)
        native = native or (converted, file.geometry)
    return certificates


def _reduced(full: Stage, request: Request, progress: Progress, folder: Path) -> Stage:
    """The same files in fewer bits, with their weights in a folder."""
    progress.step(f"reducing the precision to {request.precision}", 0)
    native, *others = full.files
    quantize = QuantizePass(request.precision, _calibration(full, request, progress), full.folder)
    model = quantize(native.model).model
    move_weights([model], folder, WEIGHTS)
    restrided_models = [with_stride(model, file.geometry.vertical.stride, full.window)[0] for file in others]
    files = [replace(file, model=own) for file, own in zip(full.files, [model, *restrided_models], strict=True)]
    return replace(full, files=files, folder=folder)


def _calibration(full: Stage, request: Request, progress: Progress) -> Iterator[dict[str, NDArray[np.generic]]]:
    """What the network is fed to see how large its numbers become: windows, for int8 with their surroundings."""
    (height, width), native, rng = full.window, full.files[0], np.random.default_rng(CALIBRATION_SEED)
    if full.graph.mode == "dense" and request.precision == "int8":
        planes = zip(native.geometry, full.window, strict=True)
        height, width = (Extent.around(axis, size, CELLS).pixels for axis, size in planes)
    for image in islice(sample_images((height, width), full.wanted, request.images, rng), CALIBRATION_IMAGES):
        yield feed(native.model.graph.inputs[0], image, full.graph.layout)
        progress.advance()
