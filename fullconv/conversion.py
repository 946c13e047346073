"""Conversion from Python: what `fullconv-convert` does, as a function."""

from os import PathLike
from typing import Any

from fullconv.common.programs import load_program


def convert(source: Any, target: str | PathLike[str], **options: Any) -> Any:  # noqa: ANN401 (the converter's own types)
    """Convert a classifier into a version of a model, and return the report (`converter.report.Report`).

    source   path of a checkpoint, an ONNX file or another file that `fullconv-convert` reads; or a PyTorch module
    target   models/NAME/VERSION
    options  those of `fullconv-convert`; see `converter.convert.convert_checkpoint`

    Raises `converter.errors.ConversionError` if the source cannot be converted; then nothing is written.
    """
    return load_program("converter.convert").convert_checkpoint(source, target, **options)
