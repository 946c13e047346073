"""Chooses the reader of a source: by the suffix of its file, by the file's contents, or by the tensors in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import SourceError, UnknownTensorsError
from converter.sources.architecture import Architecture, load_architecture, recognise
from converter.sources.caffe.read import read_caffe
from converter.sources.checkpoint import Checkpoint, read_checkpoint
from converter.sources.classifier import Classifier
from converter.sources.fingerprints import recognise_module
from converter.sources.heads import FACTORY, Shapes
from converter.sources.keras_file import export_keras, is_keras, read_keras
from converter.sources.model_folder import read_folder
from converter.sources.names import names_module, resolved_name
from converter.sources.network import build_recognised
from converter.sources.onnx_file import read_onnx
from converter.sources.prefixes import fitting_prefix, outside, without_prefix
from converter.sources.torch_module import export_module, read_module, read_trusted
from converter.sources.torch_program import read_program
from converter.sources.torch_recognised import read_recognised
from converter.sources.torch_script import is_torchscript, read_torchscript

if TYPE_CHECKING:
    import keras
    import torch

CAFFE_SUFFIX = ".caffemodel"
HUGGING_FACE = "hf:"
"""Begin of an --arch that names a folder of Hugging Face."""
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
    source: "str | PathLike[str] | torch.nn.Module | keras.Model",
    *,
    arch: str | None,
    window: tuple[int, int] | None,
    trust: bool = False,
) -> Classifier:
    """Read the classifier in a file or folder, or export a PyTorch module or Keras model; raises ConversionError.

    `arch` names a checkpoint's architecture or module, as --arch does; None stands for the network with the
    checkpoint's tensors. For Caffe networks it names the prototxt; None stands for the prototxt beside the caffemodel.
    `window` is (height, width) in pixels; None stands for the window of the architecture, file or module. With `trust`,
    a pickled module is loaded, which runs its code.
    """
    if isinstance(source, str | PathLike):
        return _read_path(Path(source), arch, window, trust=trust)
    if arch is not None:
        raise SourceError(f"arch: expected none for a module, which is a network, got --arch {arch}; leave it out")
    return export_keras(source, window) if is_keras(source) else export_module(source, window)


def _read_path(path: Path, arch: str | None, window: tuple[int, int] | None, *, trust: bool) -> Classifier:
    try:
        if path.is_dir() or (arch is not None and arch.startswith(HUGGING_FACE)):
            return _read_folder(path, arch, window)
        if not path.stat().st_size:
            raise SourceError(f"{path}: expected a checkpoint or an ONNX model, got an empty file")
        if path.suffix.lower() == CAFFE_SUFFIX:
            return read_caffe(path, arch, window)
        reader = _network_reader(path) or (read_trusted if trust else None)
        if reader is None:
            return _read_checkpoint(path, arch, window)
        if arch is not None:
            raise SourceError(
                f"arch: expected none for {path}, which contains its network, got --arch {arch}; leave it out"
            )
        return reader(path, window)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_folder(path: Path, arch: str | None, window: tuple[int, int] | None) -> Classifier:
    """Read a folder, or with --arch hf:FOLDER a file of weights for the network of a folder."""
    if arch is not None and not arch.startswith(HUGGING_FACE):
        raise SourceError(
            f"arch: expected none for the folder {path}, which names its network, got --arch {arch}; leave it out"
        )
    named = "" if arch is None else arch.removeprefix(HUGGING_FACE)
    if path.is_dir():
        return read_folder(Path(named or path), window)
    return read_folder(Path(named or path.parent), window, path)


def _read_checkpoint(path: Path, arch: str | None, window: tuple[int, int] | None) -> Classifier:
    """Read a state_dict: into the network that `arch` names, or into the network that has its tensors."""
    checkpoint = read_checkpoint(path)
    classifier = _of_tensors(checkpoint, window) if arch is None else _of_network(checkpoint, arch, window)
    return replace(classifier, notes=(*checkpoint.notes, *classifier.notes))


def _of_network(checkpoint: Checkpoint, arch: str, window: tuple[int, int] | None) -> Classifier:
    """Read a state_dict into the network that `arch` names."""
    if names_module(arch := resolved_name(arch, _shapes(checkpoint))):
        return read_module(checkpoint, arch, window)
    architecture = load_architecture(arch)
    return _build(checkpoint, fitting_prefix(checkpoint.tensors, architecture.likeness), [architecture], window)


def _of_tensors(checkpoint: Checkpoint, window: tuple[int, int] | None) -> Classifier:
    """Read a state_dict into the network that has its tensors."""
    try:
        classifier = _build(checkpoint, *recognise(checkpoint.tensors), window)
    except UnknownTensorsError:
        prefix, names = recognise_module(_shapes(checkpoint))
        if not names:
            raise
        own, notes = without_prefix(checkpoint, prefix)
        classifier = read_recognised(own, names, window)
        return replace(classifier, notes=(*notes, *classifier.notes))
    name = str(classifier.original.graph.name)
    return replace(
        classifier,
        notes=(*classifier.notes, f"recognised as {name} by its tensors"),
        assumed=(*(["window"] if window is None else []), "preprocess", "activation"),
        assumed_from=name,
    )


def _shapes(checkpoint: Checkpoint) -> Shapes:
    """Return the shapes of the tensors by name."""
    return {key: tensor.shape for key, tensor in checkpoint.tensors.items()}


def _build(
    checkpoint: Checkpoint, prefix: str, architectures: Sequence[Architecture], window: tuple[int, int] | None
) -> Classifier:
    own, notes = without_prefix(checkpoint, prefix)
    try:
        classifier = build_recognised(own, architectures, window)
    except UnknownTensorsError as error:
        if not (others := outside(checkpoint, prefix)):
            raise
        raise UnknownTensorsError(
            f"{error}; outside of {prefix!r}, it has {others}; if these are its head, {FACTORY}"
        ) from None
    return replace(classifier, notes=(*notes, *classifier.notes))


def _network_reader(path: Path) -> Reader | None:
    """Return the reader of a file that holds the network with its weights; None for other files."""
    if reader := READERS.get(path.suffix.lower()):
        return reader
    return read_onnx if _begins_like_onnx(path) else read_torchscript if is_torchscript(path) else None


def _begins_like_onnx(path: Path) -> bool:
    """Return whether a file begins with ONNX's field ir_version: number 1, a varint.

    A safetensors file begins with a length, which JSON follows.
    """
    with path.open("rb") as file:
        head = file.read(9)
    return head[:1] == b"\x08" and head[8:] != b"{"
