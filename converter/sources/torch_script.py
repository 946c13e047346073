"""Reads TorchScript files, as torch.jit.save writes them, with PyTorch.

Loading runs the file's own code, which is TorchScript and no Python: it can only call PyTorch's operators. Files whose
code names an operator that opens files, or an operator of another library, are refused before they are loaded.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

from converter.errors import SourceError, UnsupportedError
from converter.messages import one_line, quiet
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, framework
from converter.sources.onnx_file import check_input, read_onnx
from fullconv.protos import model_pb2

CONSTANTS = "constants.pkl"
CODE = re.compile(r"[^/]+/code/.+\.py")
FORBIDDEN = re.compile(r"\bops\.(?!aten\b|prim\b|quantized\b)\w+|\btorch\.(?:from_file|load|save|fork|wait)\b")
"""Matches what the code of a classifier does not need: operators of other libraries, files, threads."""
MAX_CODE_BYTES = 1 << 26
EXPORT = Path(__file__).with_name("torch_script_export.py")
"""The program that loads a file and exports it, in a process of its own: damaged files may crash PyTorch."""
CHANNELS = 4
"""Largest number of channels of an image in a TorchScript file."""


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive of TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
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
    check_input("image", (1, CHANNELS, *window))
    with quiet(), tempfile.TemporaryDirectory() as folder:
        framework("torch", PYTORCH, f"{path}")
        file = Path(folder) / "network.onnx"
        command = [sys.executable, "-P", *map(str, (EXPORT, path, file, *window))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (this package's program)
        if done.returncode:
            reason = f"signal {-done.returncode}" if done.returncode < 0 else done.stderr.strip().rpartition("\n")[2]
            raise SourceError(f"{path}: PyTorch cannot load it, or export it to ONNX: {one_line(ValueError(reason))}")
        classifier = read_onnx(file, window)
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
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise SourceError(f"{path}: damaged TorchScript file: {one_line(error)}") from None
    for text in texts:
        if match := FORBIDDEN.search(text):
            raise UnsupportedError(
                f"{path}: its code calls {match[0]!r}, which a classifier does not need; if you trust the file, load "
                "it with PyTorch and export it to ONNX"
            )
