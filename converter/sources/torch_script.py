"""Reads TorchScript files, as torch.jit.save writes them, with PyTorch.

Loading runs the file's own code, which is TorchScript and no Python: it can only call PyTorch's operators. Files whose
code names an operator that opens files, or an operator of another library, are refused before they are loaded.
"""

import re
import zipfile
from dataclasses import replace
from pathlib import Path

from converter.errors import SourceError, UnsupportedError
from converter.messages import first_cause, one_line, quiet
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, framework
from converter.sources.onnx_file import check_input
from converter.sources.torch_export import export_script
from fullconv.protos import model_pb2

CONSTANTS = "constants.pkl"
CODE = re.compile(r"[^/]+/code/.+\.py")
FORBIDDEN = re.compile(r"\bops\.(?!aten\b|prim\b|quantized\b)\w+|\btorch\.(?:from_file|load|save|fork|wait)\b")
"""Matches what the code of a classifier does not need: operators of other libraries, files, threads."""
MAX_CODE_BYTES = 1 << 26
IMAGE_CHANNELS, COLOUR = (1, 3, 4), 3
"""Channels of a network whose first weights are those of no convolution of an image."""


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive of TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return False
    return any(name.endswith(f"/{CONSTANTS}") for name in names) and any(map(CODE.fullmatch, names))


def read_torchscript(path: Path, window: tuple[int, int] | None) -> Classifier:
    """Read a TorchScript file for windows of (height, width) pixels; raises ConversionError and OSError."""
    if window is None:
        raise SourceError(
            f"window: expected the size of the images, which the TorchScript file {path} does not state; give --window "
            "HEIGHTxWIDTH"
        )
    _check_code(path)
    with quiet():
        torch = framework("torch", PYTORCH, f"{path}")
        try:
            network = torch.jit.load(path, map_location="cpu").float().eval()
        except Exception as error:  # PyTorch may raise any error
            raise SourceError(f"{path}: PyTorch {torch.__version__} cannot load it: {first_cause(error)}") from None
        kernels = [value for value in network.state_dict().values() if value.dim() == 4]
        channels = kernels[0].shape[1] if kernels and kernels[0].shape[1] in IMAGE_CHANNELS else COLOUR
        check_input("image", (1, channels, *window))
        classifier = export_script(network, torch.zeros(1, channels, *window), f"{path}")
    source = model_pb2.Source(format="torchscript", sha256=sha256(path), producer="pytorch")
    return replace(classifier, source=source)


def _check_code(path: Path) -> None:
    """Raise SourceError for a damaged archive, UnsupportedError for code that a classifier does not need."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if CODE.fullmatch(entry.filename)]
            if sum(entry.file_size for entry in entries) > MAX_CODE_BYTES:
                raise SourceError(f"{path}: expected at most {MAX_CODE_BYTES >> 20} MiB of code")
            texts = [archive.read(entry).decode("utf-8", "replace") for entry in entries]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise SourceError(f"{path}: damaged TorchScript file: {one_line(error)}") from None
    for text in texts:
        if match := FORBIDDEN.search(text):
            raise UnsupportedError(
                f"{path}: its code calls {match[0]!r}, which a classifier does not need; if you trust the file, load "
                "it with PyTorch and export it to ONNX"
            )
