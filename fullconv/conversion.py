"""Conversion from Python: the function that does the same as `fullconv-convert`."""

from os import PathLike
from typing import Any, Protocol

from fullconv.common.programs import load_program


class Report(Protocol):
    """The record of a conversion."""

    def document(self) -> dict[str, Any]:
        """Return what report.json holds: the model's specification, the rewritten layers, and the certificate."""

    def verdicts(self) -> list[str]:
        """Return one sentence for each stride: how far dense scores agree with those of crops."""

    def closing(self) -> str:
        """Return which mode is recommended, and what was not measured."""


def convert(source: Any, target: str | PathLike[str], **options: Any) -> Report:  # noqa: ANN401 (a path or a module)
    """Convert a classifier into a version of a model, and return the report.

    Args:
        source: Path of a checkpoint, an ONNX file or another file or folder that `fullconv-convert` reads; a PyTorch
            module; or a Keras model.
        target: Directory of the version, which ends in NAME/VERSION.
        options: The options of `fullconv-convert`, with the same defaults: arch, window, preprocess, activation,
            scores, also, labels, mpp, card, verify, images, strides, crops_only, precision, min_agreement, trust,
            force. `also` is a list of names; `labels` may be a list of names.

    Raises:
        converter.errors.ConversionError: The source cannot be converted; nothing is written.
        MisplacedProgramError: Python finds another package called `converter` before that of fullconv.
    """
    report: Report = load_program("converter.convert").convert_checkpoint(source, target, **options)
    return report
