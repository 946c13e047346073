"""From PyTorch to ONNX and on through the ONNX reader.

The exporter is the newer one, on torch.export: where a network's path depends on its pixels it fails. The older one,
which PyTorch is giving up, writes down whatever path the sample took.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import UnsupportedError
from converter.messages import first_cause
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, framework
from converter.sources.onnx_file import read_classifier

if TYPE_CHECKING:
    import torch


def export(
    network: "torch.nn.Module | torch.export.ExportedProgram",
    images: tuple["torch.Tensor", ...],
    name: str,
    window: tuple[int, int] | None = None,
) -> Classifier:
    """Export a module in eval() with a sample (1, channels, height, width), or an ExportedProgram without one.

    `name` says in errors what it is; `window` (height, width) is needed where a program leaves the size open. Raises
    ConversionError. Call it within `quiet`.
    """
    framework("onnxscript", PYTORCH, name)
    import torch  # noqa: PLC0415 (optional)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(network, images, file, dynamo=True, verbose=False)
        except Exception as error:  # whatever the exporter, or the network's own code, raises
            raise UnsupportedError(f"{name}: PyTorch cannot export it to ONNX: {first_cause(error)}") from None
        return read_classifier(file, window)
