"""The main path: a source in, a model version out.

reader → classifier (ONNX) → lifted (graph.dense) or kept (graph.crops) → preprocessing → strides → verified → written
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from converter.errors import SourceError
from converter.graph.canonical import only_scores
from converter.graph.converted import ConvertedGraph
from converter.graph.crops import to_crops
from converter.graph.dense import to_dense
from converter.graph.preprocess import prepend
from converter.graph.strides import Variant, variants
from converter.labels import load_labels
from converter.preprocessing import Preprocessing, load_preprocessing
from converter.report import Report
from converter.runtime import move_weights, unmap
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.spec import describe, embed
from converter.verify.networks import ConvertedNetwork, CropsNetwork, Network, SourceNetwork
from converter.verify.parity import Comparison, measure
from converter.writer import staging
from protos import model_pb2
from protos.spec import LABELS, REPORT, WEIGHTS

SOURCE_WEIGHTS = "source.data"


@dataclass(frozen=True)
class Request:
    """What to convert to and how; None stands for the classifier's own default."""

    target: Path
    force: bool = False
    preprocess: str | None = None
    activation: str | None = None
    labels: Path | None = None
    windows: int = 64
    images: Path | None = None
    strides: tuple[int, ...] = ()
    crops_only: bool = False


@dataclass(frozen=True)
class Progress:
    """`step` is called at the start of each step with the windows it has ahead, `advance` after every window."""

    step: Callable[[str, int], None]
    advance: Callable[[], None]


def convert(classifier: Classifier, request: Request, progress: Progress) -> Report:
    """Convert, verify and write. Raises ConversionError, and leaves nothing behind, if it cannot."""
    preprocessing = load_preprocessing(request.preprocess or classifier.preprocess)
    if preprocessing is not None and classifier.original.graph.inputs[0].dtype == ir.DataType.UINT8:
        raise SourceError("preprocess: the file takes pixels as uint8 and prepares them itself; leave --preprocess out")
    with staging(request.target, force=request.force) as folder, tempfile.TemporaryDirectory(dir=folder) as scratch:
        progress.step("rewriting the network", 0)
        output = only_scores(classifier.model.graph)
        move_weights([classifier.original, classifier.model], Path(scratch), SOURCE_WEIGHTS)
        source = SourceNetwork(classifier, output, preprocessing, Path(scratch))
        network = _rewritten(classifier, output, preprocessing, request, Path(scratch))
        move_weights([network.model], folder, WEIGHTS)
        unmap(classifier.original)
        files = variants(network, request.strides, classifier.window)
        for file in files:
            ir.save(file.model, folder / file.name)

        spec = describe(request.target.absolute().parent.name, classifier, network, files, request.activation)
        _label(spec, request, classifier, folder)
        spec.weights_sha256 = sha256(folder / WEIGHTS)
        native = None
        for file in files:
            progress.step(f"comparing stride {file.plane[0].stride} with the source", request.windows)
            converted = _runner(file, network, classifier.window, folder)
            comparison = Comparison(
                source=source,
                converted=converted,
                native=native,
                plane=file.plane,
                window=classifier.window,
                channels=network.channels,
                images=request.images,
                windows=request.windows,
            )
            spec.parity.append(measure(comparison, progress.advance))
            native = native or (converted, file.plane)

        progress.step("writing", 0)
        report = Report(spec, network.rewrites)
        for file in files:
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
        prepend(network.model.graph, preprocessing, network.channels, layout)
        network = replace(network, layout="NHWC")
    return network


def _label(spec: model_pb2.ModelSpec, request: Request, classifier: Classifier, folder: Path) -> None:
    """Write labels.txt, if there are labels."""
    labels = load_labels(request.labels, classifier.labels, spec.output.classes)
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
        spec.labels_sha256 = sha256(folder / LABELS)


def _runner(file: Variant, network: ConvertedGraph, window: tuple[int, int], folder: Path) -> Network:
    """A file of the result as a function of an image of any size."""
    runner = ConvertedNetwork(file.model, network.layout, folder)
    return CropsNetwork(runner, file.plane, window) if network.mode == "crops" else runner
