"""Exports PyTorch networks to ONNX, for the ONNX reader.

The exporter is based on torch.export, which fails if the path through a network depends on the pixels. PyTorch's
older exporter, which is deprecated, would write the path that the sample took.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import UnsupportedError
from converter.messages import first_cause
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, framework
from converter.sources.onnx_file import read_onnx

if TYPE_CHECKING:
    import torch


def export(
    network: "torch.nn.Module | torch.export.ExportedProgram",
    images: tuple["torch.Tensor", ...],
    name: str,
    window: tuple[int, int] | None = None,
) -> Classifier:
    """Export a module in eval() with a sample (1, channels, height, width), or an ExportedProgram without one.

    `name` names the network in errors; `window` (height, width) in pixels is needed if a program leaves the size open.
    Raises ConversionError. Call it within `quiet`.
    """
    framework("onnxscript", PYTORCH, name)
    import torch  # noqa: PLC0415 (optional)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(network, images, file, dynamo=True, verbose=False)
        except Exception as error:  # the exporter, and the network's own code, may raise any error
            raise UnsupportedError(f"{name}: PyTorch cannot export it to ONNX: {first_cause(error)}") from None
        return read_onnx(file, window)
