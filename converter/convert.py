"""The main path: a source in, a model version out.

reader → classifier (ONNX) → head lifted, geometry (graph.dense) → preprocessing → verified → written
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from converter.graph.canonical import only_scores
from converter.graph.dense import rewrite
from converter.graph.preprocess import prepend
from converter.labels import load_labels
from converter.preprocessing import load_preprocessing
from converter.report import Report
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.spec import describe, embed
from converter.verify.networks import ConvertedNetwork, SourceNetwork
from converter.verify.parity import Comparison, Extent, measure
from converter.writer import staging
from protos.spec import LABELS, MODEL, REPORT, WEIGHTS


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


@dataclass(frozen=True)
class Progress:
    """`step` is called at the start of each step with the windows it has ahead, `advance` after every window."""

    step: Callable[[str, int], None]
    advance: Callable[[], None]


def convert(classifier: Classifier, request: Request, progress: Progress) -> Report:
    """Convert, verify and write. Raises ConversionError, and leaves nothing behind, if it cannot."""
    preprocessing = load_preprocessing(request.preprocess or classifier.preprocess)
    with staging(request.target, force=request.force) as folder:
        progress.step("rewriting the head", 0)
        output = only_scores(classifier.model.graph)
        source = SourceNetwork(classifier, output, preprocessing, folder)
        network = rewrite(classifier.model, output, classifier.window, classifier.layout, folder)
        if preprocessing is not None:
            preprocessing.check_channels(network.channels)
            prepend(network.model.graph, preprocessing, network.channels, classifier.layout)
        ir.save(network.model, folder / MODEL, external_data=WEIGHTS)
        spec = describe(request.target.absolute().parent.name, classifier, network, request.activation)
        spec.weights_sha256 = sha256(folder / WEIGHTS)
        labels = load_labels(request.labels, classifier.labels, network.classes)
        if labels:
            (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
            spec.labels_sha256 = sha256(folder / LABELS)

        progress.step("comparing with the source", request.windows)
        vertical, horizontal = map(Extent, network.plane, classifier.window)
        comparison = Comparison(
            source=source,
            converted=ConvertedNetwork(network.model, classifier.layout, folder),
            vertical=vertical,
            horizontal=horizontal,
            channels=network.channels,
            images=request.images,
            windows=request.windows,
        )
        spec.parity.append(measure(comparison, progress.advance))

        progress.step("writing", 0)
        report = Report(spec, network.rewrites)
        embed(spec, folder / MODEL)
        (folder / REPORT).write_text(json.dumps(report.document(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return report
