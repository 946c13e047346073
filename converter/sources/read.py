"""Which reader a source wants, told by its suffix or, for ONNX, its first bytes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from converter.errors import SourceError
from converter.sources.architecture import load_architecture, recognise
from converter.sources.caffe.read import read_caffe
from converter.sources.checkpoint import read_checkpoint
from converter.sources.classifier import Classifier
from converter.sources.keras_file import read_keras
from converter.sources.network import build_classifier
from converter.sources.onnx_file import read_classifier
from converter.sources.torch_module import is_module, read_module
from converter.sources.torch_program import read_program

CAFFE_SUFFIX = ".caffemodel"
Reader = Callable[[Path, tuple[int, int] | None], Classifier]
READERS: Mapping[str, Reader] = {
    ".h5": read_keras,
    ".hdf5": read_keras,
    ".keras": read_keras,
    ".onnx": read_classifier,
    ".pb": read_classifier,
    ".pt2": read_program,
}
"""Of files that hold the network with its weights."""


def read_source(path: Path, *, arch: str | None, window: tuple[int, int] | None) -> Classifier:
    """Read a checkpoint, an ONNX file or a Caffe network.

    `arch` names a shipped architecture or a TOML file, for checkpoints; None: recognised by the tensors' names. For
    Caffe networks it names the prototxt; None: the one beside the caffemodel.
    `window` is (height, width) in pixels; None: what the architecture or the file says. Raises ConversionError.
    """
    try:
        if not path.stat().st_size:
            raise SourceError(f"{path}: expected a checkpoint or an ONNX model, got an empty file")
        if path.suffix.lower() == CAFFE_SUFFIX:
            return read_caffe(path, arch, window)
        if complete := _complete(path):
            if arch is not None:
                raise SourceError(f"arch: {path} holds its own network, got --arch {arch}; leave it out")
            return complete(path, window)
        if arch is not None and is_module(arch):
            return read_module(path, arch, window)
        checkpoint = read_checkpoint(path)
        architecture = load_architecture(arch) if arch else recognise(set(checkpoint.tensors))
        return build_classifier(checkpoint, architecture, window or architecture.window)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _complete(path: Path) -> Reader | None:
    """The reader of a file that holds the network with its weights."""
    return READERS.get(path.suffix.lower()) or (read_classifier if _begins_like_onnx(path) else None)


def _begins_like_onnx(path: Path) -> bool:
    """ONNX files begin with the field ir_version, number 1, a varint; safetensors with a length, and then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[:1] == b"\x08" and head[8:] != b"{"
