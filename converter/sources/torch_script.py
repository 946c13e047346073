"""Reads TorchScript files, as torch.jit.save writes them, with PyTorch.

PyTorch loads and exports a file in a process of its own (`torch_script_export`), since damaged files may crash it. The
file's code is TorchScript and no Python; files whose code names operators for files, threads or other libraries are
refused before they are loaded.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

from converter.errors import SourceError
from converter.messages import shortened
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, is_installed
from converter.sources.onnx_file import check_input, read_onnx
from fullconv.protos import model_pb2

CONSTANTS = "constants.pkl"
CODE = re.compile(r"[^/]+/code/.+\.py")
EXPORT = Path(__file__).with_name("torch_script_export.py")
"""The program that loads a file and exports it."""
EXPORT_SECONDS = 1800
"""Limit on the time of an export. The code of a file may run for ever."""
CHANNELS = 4
"""Number of channels with which the size of a window is checked."""


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
    if not is_installed("torch"):
        raise SourceError(f"{path} needs torch, which is not installed: {PYTORCH}")
    check_input("image", (1, CHANNELS, *window))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        _export(path, file, window)
        classifier = read_onnx(file, window)
    source = model_pb2.Source(format="torchscript", sha256=sha256(path), producer="pytorch")
    return replace(classifier, source=source)


def _export(path: Path, file: Path, window: tuple[int, int]) -> None:
    """Write the network in a TorchScript file as ONNX; raises SourceError."""
    command = [sys.executable, "-P", *map(str, (EXPORT, path, file, *window))]
    try:
        done = subprocess.run(  # noqa: S603 (this package's program)
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=EXPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SourceError(
            f"{path}: expected PyTorch to export it within {EXPORT_SECONDS} seconds; export it to ONNX yourself"
        ) from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        reason = f"PyTorch crashes on it (signal {-done.returncode})" if done.returncode < 0 else last
        raise SourceError(f"{path}: cannot be exported to ONNX: {shortened(reason)}")
