"""Checkpoints: a state_dict as named numpy arrays, from safetensors and PyTorch's formats.

The format is recognised by the content. No reader runs code from the file. Floating-point tensors are returned as
float32, the type in which the network computes; other tensors keep their type. Tensors that need no conversion are
views of the memory-mapped file, which must not change while they are used.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from converter.errors import SourceError
from converter.sources.mmap_file import MAX_EXPANSION, mmap_file
from converter.sources.state_dicts import Arrays, find_state_dict, unread_type
from converter.sources.torch_stream import read_torch_stream
from converter.sources.torch_zip import read_torch_zip
from fullconv.protos import model_pb2

WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
"""Prefixes that parallel training and torch.compile put before keys."""
TAR_MAGIC = slice(257, 262)
SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
BATCHES = ".num_batches_tracked"
"""Suffix of the keys of the counters of PyTorch's batch normalisation, which older checkpoints lack."""
COUNTER = "n_averaged"
"""Key of the counter of PyTorch's AveragedModel, which is no tensor of the network."""


Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, the file from which they were read, and notes on the part of the file that they are."""

    tensors: Tensors
    source: model_pb2.Source
    notes: tuple[str, ...] = ()


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several files in order, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def sha256_of_arrays(arrays: Iterable[tuple[str, NDArray[np.generic]]]) -> str:
    """Return the SHA-256 of named arrays: of each name and the array's bytes, in order."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raises SourceError unless it holds a state_dict."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        name, producer, (tensors, notes) = "torch-zip", "pytorch", find_state_dict(read_torch_zip(path), path)
    elif head[:1] == b"\x80" and head[8:9] != b"{":  # the header length of safetensors may begin with 0x80
        name, producer, (tensors, notes) = "torch-stream", "pytorch", find_state_dict(read_torch_stream(path), path)
    elif head[TAR_MAGIC] == b"ustar":
        raise SourceError(
            f"{path}: expected a checkpoint, got a tar archive; if it is a checkpoint of PyTorch's first releases and "
            "you trust it, load it with PyTorch and save it with torch.save(model.state_dict(), 'new.pth')"
        )
    elif head[8:9] == b"{":
        name, producer, (tensors, notes) = "safetensors", "", (_read_safetensors(path), ())
    else:
        raise SourceError(f"{path}: expected safetensors, a PyTorch state_dict or ONNX, got bytes {head[:8].hex(' ')}")
    if not tensors:
        raise SourceError(f"{path}: expected tensors, got an empty checkpoint")
    size, allowed = sum(tensor.nbytes for tensor in tensors.values()), MAX_EXPANSION * path.stat().st_size
    if size > allowed:
        raise SourceError(
            f"{path}: expected tensors of at most {allowed >> 20} MiB in a file of this size, got {size >> 20}"
        )
    own = {key: _as_float32(tensor) for key, tensor in _without_wrappers(tensors).items() if key != COUNTER}
    return Checkpoint(own, model_pb2.Source(format=name, sha256=sha256(path), producer=producer), notes)


def _without_wrappers(tensors: Arrays) -> Arrays:
    """Return tensors without the prefixes of WRAPPERS; raises SourceError if two of one name have other numbers."""
    own, names = dict[str, NDArray[np.generic]](), dict[str, str]()
    for key, tensor in tensors.items():
        name = WRAPPERS.sub("", key)
        if name in own and not np.array_equal(own[name], tensor):
            raise SourceError(
                f"checkpoint: expected one tensor {name}, got two, {names[name]} and {key}; save one of the networks"
            )
        own[name], names[name] = tensor, key
    return own


def _read_safetensors(path: Path) -> Arrays:
    """Return views of the file; the library checks its header, and that the tensors follow it without gaps."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {key: file.get_slice(key) for key in file.offset_keys()}
            shapes = {key: (view.get_dtype(), tuple(view.get_shape())) for key, view in slices.items()}
        for key, (kind, _) in shapes.items():
            if kind not in SAFETENSORS:
                raise unread_type(key, kind, path)
        return dict(_tensor_views(shapes, mmap_file(path)))
    except (SafetensorError, ValueError) as error:
        raise SourceError(f"{path}: damaged safetensors file: {error}") from None


def _tensor_views(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]], data: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield each tensor as a view of the file's bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    for key, (kind, shape) in shapes.items():
        dtype = np.dtype(SAFETENSORS[kind]).newbyteorder("<")
        end = start + math.prod(shape) * dtype.itemsize
        yield key, np.ndarray(shape, dtype, data[start:end])
        start = end


def _as_float32(tensor: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a floating-point tensor as float32, other tensors unchanged."""
    if tensor.dtype.kind not in "fV":
        return tensor
    with np.errstate(over="ignore", invalid="ignore"):  # check_finite refuses infinity and NaN
        return tensor.astype(np.float32, copy=False)


def check_finite(tensors: Tensors, prefix: str = "") -> None:
    """Raise SourceError if a tensor holds NaN or infinity; `prefix` is that of the keys in the checkpoint."""
    for key, tensor in tensors.items():
        if tensor.dtype.kind == "f" and tensor.size and not np.isfinite([tensor.min(), tensor.max()]).all():
            raise SourceError(
                f"checkpoint: {prefix}{key}: expected finite numbers, got NaN or infinity; the training has probably "
                "diverged"
            )
