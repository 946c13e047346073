"""PyTorch's zip format (since 1.6), read without PyTorch and without running code.

The archive holds `NAME/data.pkl`, a pickle of the object with tensors as persistent references, and one file
`NAME/data/KEY` for each storage. The unpickler below knows the few functions that rebuild tensors and containers;
whatever else a pickle names is refused before it is called.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
MAX_PICKLE_BYTES = 64 << 20
"""A state_dict's pickle holds names and shapes: 30 kB for a ResNet-50. More is not a checkpoint."""


def read_torch_zip(path: Path) -> object:
    """Unpickle a checkpoint with its tensors as numpy arrays; raises SourceError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpickle(archive, path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError) as error:
        raise SourceError(f"{path}: damaged or truncated checkpoint: {error}") from None


def _unpickle(archive: zipfile.ZipFile, path: Path) -> object:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(names) != 1:
        raise SourceError(f"{path}: expected one data.pkl in the archive, got {len(names)}; not a PyTorch checkpoint")
    if archive.getinfo(names[0]).file_size > MAX_PICKLE_BYTES:
        raise SourceError(f"{path}: expected data.pkl of at most {MAX_PICKLE_BYTES >> 20} MiB")
    prefix = names[0].removesuffix("data.pkl")
    order = f"{prefix}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise SourceError(
            f"{path}: expected little-endian tensors, got {archive.read(order)!r}; save it on such a machine"
        )
    with archive.open(names[0]) as file:
        unpickler = _TensorUnpickler(file, archive, prefix)
        try:
            return unpickler.load()
        except _ForbiddenGlobalError as error:
            raise SourceError(
                f"{path}: expected tensors alone, got {error}, which only running code could load; load it with "
                "PyTorch where you trust it and save torch.save(model.state_dict(), 'new.pth')"
            ) from None
        except (zipfile.BadZipFile, SourceError):
            raise
        except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
            reason = f"{type(error).__name__}: {error}"
            raise SourceError(f"{path}: damaged checkpoint: {reason}") from None


class _ForbiddenGlobalError(pickle.UnpicklingError):
    """The pickle names something outside the allow-list."""


@dataclass(frozen=True)
class _StorageType:
    """Stands for torch.FloatStorage and its kind: a name in the pickle, never called."""

    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class _Storage:
    """A storage's elements; no array, so that a tensor cannot be rebuilt on another tensor, past its bounds."""

    elements: NDArray[np.generic]


class _TensorUnpickler(pickle._Unpickler):  # noqa: SLF001
    """In Python, since the one in C takes memory for as many entries as a memo's index says."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str) -> None:  # noqa: ANN401 (any binary file)
        super().__init__(file)
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> object:
        """Resolve the few names that state_dicts hold; refuse the rest."""
        if module == "torch" and name in STORAGES:
            return _StorageType(np.dtype(STORAGES[name]))
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenGlobalError(f"{module}.{name}") from None

    def persistent_load(self, pid: tuple[str, _StorageType, str, str, int]) -> _Storage:
        """Read one storage, ("storage", type, key, location, elements): a flat array of its elements."""
        _, kind, key, _, elements = pid
        if key not in self._storages:
            name = f"{self._prefix}data/{key}"
            entry = self._archive.getinfo(name)
            expected = elements * kind.dtype.itemsize
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != expected:
                raise ValueError(f"storage {key}: expected {expected} bytes, stored plainly, got {entry}")
            self._storages[key] = _Storage(np.frombuffer(self._archive.read(name), kind.dtype.newbyteorder("<")))
        return self._storages[key]


def _rebuild_tensor(
    storage: object, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> NDArray[np.generic]:
    """What torch._utils._rebuild_tensor_v2 does: a strided view of a storage, in elements."""
    if not isinstance(storage, _Storage):
        raise TypeError(f"expected a tensor of a storage, got one of {type(storage).__name__}")
    elements, count = storage.elements, math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or count > elements.size or (count and last >= elements.size):
        raise ValueError(f"tensor {shape} with strides {strides} at {offset} is outside its {elements.size} elements")
    steps = [stride * elements.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(elements[offset:], shape, steps, writeable=False)


def _rebuild_parameter(data: NDArray[np.generic], *_: object) -> NDArray[np.generic]:
    return data


ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
}
