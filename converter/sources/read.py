"""Chooses the reader of a source by the suffix of its file or, for ONNX, by the file's first bytes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import SourceError
from converter.sources.architecture import load_architecture, recognise
from converter.sources.caffe.read import read_caffe
from converter.sources.checkpoint import read_checkpoint
from converter.sources.classifier import Classifier
from converter.sources.keras_file import read_keras
from converter.sources.network import build_recognised
from converter.sources.onnx_file import read_onnx
from converter.sources.prefixes import fitting_prefix, without_prefix
from converter.sources.torch_module import export_module, names_module, read_module
from converter.sources.torch_program import read_program

if TYPE_CHECKING:
    import torch

CAFFE_SUFFIX = ".caffemodel"
Reader = Callable[[Path, tuple[int, int] | None], Classifier]
READERS: Mapping[str, Reader] = {
    ".h5": read_keras,
    ".hdf5": read_keras,
    ".keras": read_keras,
    ".onnx": read_onnx,
    ".pb": read_onnx,
    ".pt2": read_program,
}
"""The readers of files that hold the network with its weights, by suffix."""


def read_source(
    source: "str | PathLike[str] | torch.nn.Module", *, arch: str | None, window: tuple[int, int] | None
) -> Classifier:
    """Read the classifier in a file, or export a PyTorch module; raises ConversionError.

    `arch` names a checkpoint's architecture or module, as --arch does; None stands for the shipped architecture with
    the checkpoint's tensors. For Caffe networks it names the prototxt; None stands for the prototxt beside the
    caffemodel. `window` is (height, width) in pixels; None stands for the window of the architecture, file or module.
    """
    if isinstance(source, str | PathLike):
        return _read_file(Path(source), arch, window)
    if arch is not None:
        raise SourceError(f"arch: expected none for a module, which is a network, got --arch {arch}; leave it out")
    return export_module(source, window)


def _read_file(path: Path, arch: str | None, window: tuple[int, int] | None) -> Classifier:
    try:
        if not path.stat().st_size:
            raise SourceError(f"{path}: expected a checkpoint or an ONNX model, got an empty file")
        if path.suffix.lower() == CAFFE_SUFFIX:
            return read_caffe(path, arch, window)
        if read_network := _network_reader(path):
            if arch is not None:
                raise SourceError(
                    f"arch: expected none for {path}, which contains its network, got --arch {arch}; leave it out"
                )
            return read_network(path, window)
        if arch is not None and names_module(arch):
            return read_module(path, arch, window)
        checkpoint = read_checkpoint(path)
        if arch:
            architectures = [load_architecture(arch)]
            prefix = fitting_prefix(checkpoint.tensors, architectures[0].likeness)
        else:
            prefix, architectures = recognise(checkpoint.tensors)
        own, notes = without_prefix(checkpoint, prefix)
        return replace(build_recognised(own, architectures, window), notes=notes)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _network_reader(path: Path) -> Reader | None:
    """Return the reader of a file that holds the network with its weights; None for other files."""
    return READERS.get(path.suffix.lower()) or (read_onnx if _begins_like_onnx(path) else None)


def _begins_like_onnx(path: Path) -> bool:
    """Return whether a file begins with ONNX's field ir_version: number 1, a varint.

    A safetensors file begins with a length, which JSON follows.
    """
    with path.open("rb") as file:
        head = file.read(9)
    return head[:1] == b"\x08" and head[8:] != b"{"
