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
from converter.sources.torch_pickle import Opaque, Tensor
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
STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "state_dict_ema")
"""Keys under which training scripts save the state_dict beside other objects."""
BATCHES = ".num_batches_tracked"
"""Suffix of the keys of the counters of PyTorch's batch normalisation, which older checkpoints lack."""
COUNTER = "n_averaged"
"""Key of the counter of PyTorch's AveragedModel, which is no tensor of the network."""


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, and the file from which they were read."""

    tensors: Mapping[str, NDArray[np.generic]]
    source: model_pb2.Source


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
        name, producer, tensors = "torch-zip", "pytorch", _state_dict(read_torch_zip(path), path)
    elif head[:1] == b"\x80" and head[8:9] != b"{":  # the header length of safetensors may begin with 0x80
        name, producer, tensors = "torch-stream", "pytorch", _state_dict(read_torch_stream(path), path)
    elif head[TAR_MAGIC] == b"ustar":
        raise SourceError(
            f"{path}: expected a checkpoint, got a tar archive; if it is a checkpoint of PyTorch's first releases and "
            "you trust it, load it with PyTorch and save it with torch.save(model.state_dict(), 'new.pth')"
        )
    elif head[8:9] == b"{":
        name, producer, tensors = "safetensors", "", _read_safetensors(path)
    else:
        raise SourceError(f"{path}: expected safetensors, a PyTorch state_dict or ONNX, got bytes {head[:8].hex(' ')}")
    if not tensors:
        raise SourceError(f"{path}: expected tensors, got an empty checkpoint")
    size, allowed = sum(tensor.nbytes for tensor in tensors.values()), MAX_EXPANSION * path.stat().st_size
    if size > allowed:
        raise SourceError(
            f"{path}: expected tensors of at most {allowed >> 20} MiB in a file of this size, got {size >> 20}"
        )
    return Checkpoint(
        {WRAPPERS.sub("", key): _as_float32(path, key, tensor) for key, tensor in tensors.items() if key != COUNTER},
        model_pb2.Source(format=name, sha256=sha256(path), producer=producer),
    )


def _read_safetensors(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return views of the file; the library checks its header, and that the tensors follow it without gaps."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {key: file.get_slice(key) for key in file.offset_keys()}
            shapes = {key: (view.get_dtype(), tuple(view.get_shape())) for key, view in slices.items()}
        return dict(_tensor_views(shapes, mmap_file(path)))
    except (SafetensorError, ValueError) as error:
        raise SourceError(f"{path}: damaged safetensors file: {error}") from None


def _tensor_views(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]], data: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield each tensor as a view of the file's bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    for key, (kind, shape) in shapes.items():
        if kind not in SAFETENSORS:
            raise ValueError(f"{key}: expected a type among {', '.join(SAFETENSORS)}, got {kind}")
        dtype = np.dtype(SAFETENSORS[kind]).newbyteorder("<")
        end = start + math.prod(shape) * dtype.itemsize
        yield key, np.ndarray(shape, dtype, data[start:end])
        start = end


def _state_dict(loaded: object, path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of the state_dict in the object of a training script, at its top level or one level below."""
    candidates = [*(loaded.get(key) for key in STATE_KEYS), loaded] if isinstance(loaded, dict) else [loaded]
    for candidate in candidates:
        values = candidate if isinstance(candidate, dict) else {"": candidate}
        tensors = {key: value.array() for key, value in values.items() if isinstance(value, Tensor)}
        opaque = [value.name for value in values.values() if isinstance(value, Opaque)]
        if opaque and (tensors or candidate is loaded):
            trust = "" if tensors else "add --trust, with which PyTorch loads it and runs its code, or "
            raise SourceError(
                f"{path}: expected only tensors, got {opaque[0]}, which requires running code; if you trust the file, "
                f"{trust}load it yourself and save it with torch.save(model.state_dict(), 'new.pth')"
            )
        if tensors and isinstance(candidate, dict):
            return tensors
    raise SourceError(f"{path}: expected a state_dict, got {type(loaded).__name__} without tensors")


def _as_float32(path: Path, key: str, tensor: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a floating-point tensor as float32, other tensors unchanged; raises SourceError for NaN or infinity."""
    if tensor.dtype.kind not in "fV":
        return tensor
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are refused below
        converted = tensor.astype(np.float32, copy=False)
    if converted.size and not np.isfinite([converted.min(), converted.max()]).all():
        raise SourceError(
            f"{path}: {key}: expected finite numbers, got NaN or infinity; the training has probably diverged"
        )
    return converted
