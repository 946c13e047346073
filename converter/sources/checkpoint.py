"""Checkpoints: a state_dict as named numpy arrays.

safetensors and PyTorch's zip format, told apart by content. Neither reader runs code from the file. Floating-point
tensors come back as float32, which is what the network runs in; anything else keeps its type.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from converter.errors import SourceError
from converter.sources.torch_zip import read_torch_zip
from protos import model_pb2

PARALLEL_PREFIX = "module."
SHARING = 4
"""Tensors may share storages, but are read each for itself: so many times the file's size at most."""
STATE_KEYS = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the state_dict when they save more than that."""


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, and where they came from."""

    tensors: Mapping[str, NDArray[np.generic]]
    source: model_pb2.Source


def sha256(*paths: Path) -> str:
    """Digest of a file, or of several one after the other, lower-case hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raises SourceError for anything but a state_dict."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PK"):
        name, producer, tensors = "torch-zip", "pytorch", _state_dict(read_torch_zip(path), path)
    elif head[:1] == b"\x80":
        raise SourceError(
            f"{path}: a pickle or a checkpoint from before PyTorch 1.6; load it with PyTorch where you trust it and "
            "save it again: torch.save(model.state_dict(), 'new.pth')"
        )
    elif head[8:9] == b"{":
        name, producer, tensors = "safetensors", "", _read_safetensors(path)
    else:
        raise SourceError(f"{path}: expected safetensors, a PyTorch state_dict or ONNX, got bytes {head[:8].hex(' ')}")
    if not tensors:
        raise SourceError(f"{path}: expected tensors, got an empty checkpoint")
    size, allowed = sum(tensor.nbytes for tensor in tensors.values()), SHARING * path.stat().st_size
    if size > allowed:
        raise SourceError(
            f"{path}: expected tensors of at most {allowed >> 20} MiB in a file of that size, got {size >> 20}"
        )
    return Checkpoint(
        {key.removeprefix(PARALLEL_PREFIX): _plain(path, key, tensor) for key, tensor in tensors.items()},
        model_pb2.Source(format=name, sha256=sha256(path), producer=producer),
    )


def _read_safetensors(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise SourceError(f"{path}: damaged safetensors file: {error}") from None


def _state_dict(loaded: object, path: Path) -> dict[str, NDArray[np.generic]]:
    """Find the state_dict in what a training script saved: the whole, or one level down."""
    candidates = [*(loaded.get(key) for key in STATE_KEYS), loaded] if isinstance(loaded, dict) else []
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate:
            tensors = {str(key): value for key, value in candidate.items() if isinstance(value, np.ndarray)}
            if tensors:
                return tensors
    raise SourceError(f"{path}: expected a state_dict, got {type(loaded).__name__} without tensors")


def _plain(path: Path, key: str, tensor: NDArray[np.generic]) -> NDArray[np.generic]:
    if tensor.dtype.kind not in "fV":
        return tensor
    plain = tensor.astype(np.float32)
    if not np.isfinite(plain).all():
        raise SourceError(f"{path}: {key}: expected finite numbers, got NaN or infinity; the training diverged")
    return plain
