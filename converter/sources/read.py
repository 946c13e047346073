"""Which reader a source wants, told by its suffix or, for ONNX, its first bytes."""

from pathlib import Path

from converter.errors import SourceError
from converter.sources.architecture import load_architecture, recognise
from converter.sources.caffe.read import read_caffe
from converter.sources.checkpoint import read_checkpoint
from converter.sources.classifier import Classifier
from converter.sources.network import build_classifier
from converter.sources.onnx_file import read_classifier

ONNX_SUFFIXES = {".onnx", ".pb"}
CAFFE_SUFFIX = ".caffemodel"


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
        if path.suffix.lower() in ONNX_SUFFIXES or _begins_like_onnx(path):
            if arch is not None:
                raise SourceError(f"arch: an ONNX file holds its own network, got --arch {arch}; leave it out")
            return read_classifier(path, window)
        checkpoint = read_checkpoint(path)
        architecture = load_architecture(arch) if arch else recognise(set(checkpoint.tensors))
        return build_classifier(checkpoint, architecture, window or architecture.window)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _begins_like_onnx(path: Path) -> bool:
    """ONNX files begin with the field ir_version, number 1, a varint; safetensors with a length, and then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[:1] == b"\x08" and head[8:] != b"{"
