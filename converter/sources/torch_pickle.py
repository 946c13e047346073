"""Reads the pickles inside PyTorch's checkpoints, without PyTorch and without running code.

A pickle is a program for a stack machine. The machine in this module has only the instructions that checkpoints use,
and knows only the functions that rebuild tensors and containers. Tensors refer to storages, whose bytes lie elsewhere
in the file: `Tensor` and `Storage` hold the claims of the pickle, and a reader adds the bytes.

Objects that training scripts save beside tensors (options, counters, paths, numpy's numbers: INERT) become
placeholders, whose contents are dropped; so do arrays of numpy, and tensors of types that are not read. Every other
name in a pickle stands for an object without contents (`Opaque`), and is neither looked up nor called; readers refuse
such an object in place of a tensor. Refused here are tensors made of other tensors or outside their storage, negative
strides, and pickles of more than MAX_PICKLE_BYTES.
Dictionary entries whose key is not a string are dropped, because hashing objects of a file might never end. Every state
for an object (BUILD) is dropped too, because a state could change an object that was already checked.
"""

import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.messages import shortened

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
UNREAD_STORAGES = {
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt32Storage": "qint32",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
}
"""Storages of PyTorch whose numbers are not read, with their types."""
UNTYPED = ("torch.storage", "UntypedStorage")
"""The storage of PyTorch's newest types, such as float8_e4m3fn, which the function that makes the tensor names."""
NUMPY_ARRAYS = frozenset(
    (module, name)
    for modules, name in (
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
    )
    for module in modules.split()
)
"""The functions that make numpy's arrays."""
MAX_PICKLE_BYTES = 4 << 20
"""Limit on the bytes of a pickle. The pickle of a state_dict holds names and shapes, 30 kB for a ResNet-50; each opcode
may need 100 bytes of memory."""
MAX_RANK = 8
"""Limit on the rank of a tensor; a convolution over volumes has weights of rank 5."""
MAX_COUNT = 1 << 48
"""Limit on any number of elements, so that the product of two such numbers cannot overflow."""
MAX_ARGUMENTS = 16
"""Limit on the arguments of a call; no class of INERT and no function of REBUILD takes more."""

_PYTHON_TYPES = "set frozenset bytearray complex slice range object list dict tuple int float bool str bytes"
_TORCH_TYPES = "float16 float32 float64 bfloat16 uint8 int8 int16 int32 int64 bool complex64 complex128"
_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
INERT = frozenset(
    (module, name)
    for modules, names in (
        ("argparse", "Namespace"),
        ("types", "SimpleNamespace"),
        ("collections", "defaultdict Counter deque"),
        ("builtins __builtin__", _PYTHON_TYPES),
        ("copyreg copy_reg", "_reconstructor"),
        ("_codecs", "encode"),
        ("datetime", "date datetime time timedelta timezone"),
        ("pathlib pathlib._local", _PATHS),
        ("numpy", f"dtype ndarray bool_ longlong {_TORCH_TYPES}"),
        ("numpy.core.multiarray numpy._core.multiarray", "scalar"),
        ("torch", f"device {_TORCH_TYPES}"),
    )
    for module in modules.split()
    for name in names.split()
)
"""Harmless classes that checkpoints hold beside tensors, as (module, name); they are never looked up or called."""

_OPCODES = frozenset(
    b"".join(
        (
            pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK,
            pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
            pickle.LONG4, pickle.BINFLOAT, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINUNICODE,
            pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8,
            pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
            pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT,
            pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID,
            pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE,
        )
    )
)  # fmt: skip


@dataclass(eq=False)
class Storage:
    """A storage that a pickle refers to: its type, its number of elements, and their bytes once a reader adds them."""

    dtype: np.dtype[np.generic]
    count: int
    content: NDArray[np.uint8] | None = None

    @property
    def nbytes(self) -> int:
        """The number of bytes that it must have in the file."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Span:
    """Consecutive elements of a storage: all elements or, in old checkpoints, a view of some elements."""

    storage: Storage
    start: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.start + self.count <= self.storage.count:
            raise ValueError("a view of a storage is outside it")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view of a span; offset and strides are in elements. No tensor can be made from another tensor."""

    span: Span
    offset: int
    shape: Sequence[int]
    strides: Sequence[int]

    def __post_init__(self) -> None:
        if not isinstance(self.span, Span):
            raise TypeError(f"expected a tensor of a storage, got one of {type(self.span).__name__}")
        if not all(type(sizes) is tuple and len(sizes) <= MAX_RANK for sizes in (self.shape, self.strides)):
            raise TypeError(f"expected a tensor's shape and strides, each of at most {MAX_RANK} numbers")
        numbers = (self.offset, *self.shape, *self.strides)
        if not all(type(number) is int and 0 <= number < MAX_COUNT for number in numbers):
            raise ValueError("expected a tensor's offset, shape and strides to be counts")
        count = math.prod(self.shape)
        if not count and math.prod(size or 1 for size in self.shape) >= MAX_COUNT:
            raise ValueError("expected an empty tensor's shape, got one that numpy cannot have")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if count > self.span.count or (count and last >= self.span.count):
            raise ValueError(f"a tensor of shape {self.shape} is outside its storage of {self.span.count} elements")

    def array(self) -> NDArray[np.generic]:
        """Return the numbers as a read-only view of the file."""
        storage, size = self.span.storage, self.span.storage.dtype.itemsize
        assert storage.content is not None  # noqa: S101 (readers fill every storage)
        start = (self.span.start + self.offset) * size if math.prod(self.shape) else 0
        steps = [stride * size for stride in self.strides]
        return np.ndarray(self.shape, storage.dtype, storage.content, start, steps)


def unpickle(file: BinaryIO, path: Path) -> tuple[Any, dict[str, Storage]]:
    """Return the object of one pickle, and the storages that it refers to, by key; raises SourceError."""
    unpickler = _TensorUnpickler(file, encoding="utf-8", errors="replace")
    unpickler.storages = {}
    try:
        return unpickler.load(), unpickler.storages
    except MemoryError:
        raise
    except EOFError:
        size = f"{MAX_PICKLE_BYTES >> 20} MiB"
        raise SourceError(f"{path}: truncated checkpoint, or one with a pickle of more than {size}") from None
    except Exception as error:  # the opcodes of a damaged pickle may raise any error
        reason = shortened(f"{type(error).__name__}: {error}")
        raise SourceError(f"{path}: damaged checkpoint: {reason}") from None


class _Placeholder:
    """Replaces an object that is not needed; its contents are dropped."""

    def __init__(self, *_: object) -> None: ...

    def extend(self, _: object) -> None:
        """Ignore the items of APPENDS."""

    append = extend


class NumpyArray(_Placeholder):
    """Replaces an array of numpy, whose numbers are not read."""


@dataclass(frozen=True, eq=False)
class UnreadTensor:
    """Represents a tensor, or its storage, of a type that is not read, such as "complex64"."""

    type: str


class Opaque(_Placeholder):
    """Replaces an object of a class outside the allow-list, called `name`; making the object would require its code."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object) -> "Opaque":
        """Return this object for a call of it."""
        return self


@dataclass(frozen=True)
class _OpaqueType:
    """Represents a class or function outside the allow-list, which is neither looked up nor called."""

    name: str

    def __call__(self, *_: object) -> Opaque:
        return Opaque(self.name)


@dataclass(frozen=True, eq=False)
class _StorageType:
    """Represents a storage class such as torch.FloatStorage, which the pickle names and which is never called."""

    dtype: np.dtype[np.generic]


class _TensorUnpickler(pickle._Unpickler):  # noqa: SLF001
    """Based on the unpickler in Python, since the unpickler in C allocates as many memo entries as an index claims."""

    storages: dict[str, Storage]
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    _pairs = 0

    def find_class(self, module: str, name: str) -> object:
        """Resolve the few names that tensors need; all others stand for objects without contents."""
        if module == "torch" and name in STORAGES:
            return _StorageType(np.dtype(STORAGES[name]).newbyteorder("<"))
        if (module, name) == UNTYPED or (module == "torch" and name in UNREAD_STORAGES):
            return UnreadTensor(UNREAD_STORAGES.get(name, ""))
        if (module, name) in NUMPY_ARRAYS:
            return NumpyArray
        if (module, name) in INERT:
            return _Placeholder
        if (module, name) == ("collections", "OrderedDict"):
            return self._mapping
        return REBUILD.get((module, name)) or _OpaqueType(f"{module}.{name}"[:100])

    def persistent_load(self, pid: object) -> Span | UnreadTensor:
        """Resolve a reference to a storage: ("storage", type, key, location, elements), and perhaps a view of it."""
        match pid:
            case ("storage", UnreadTensor() as unread, *_):
                return unread
            case ("storage", _StorageType(dtype=dtype), str(key), _, int(count), *views) if 0 <= count < MAX_COUNT:
                storage = self.storages.setdefault(key, Storage(dtype, count))
            case _:
                raise pickle.UnpicklingError("expected a reference to a storage")
        if (storage.dtype, storage.count) != (dtype, count):
            raise pickle.UnpicklingError(f"storage {key[:40]!r} has two types or sizes")
        match views:
            case [] | [None]:
                return Span(storage, 0, count)
            case [(str(), int(start), int(size))]:
                return Span(storage, start, size)
        raise pickle.UnpicklingError("expected a view of a storage")

    def _mapping(self, pairs: Sequence[Sequence[Any]] = ()) -> dict[str, Any]:
        """Return an ordered dictionary, which Python 2 pickled with its items.

        A limit applies to the items of all dictionaries together, because many dictionaries may use the same list.
        """
        self._pairs += len(pairs)
        if self._pairs > MAX_PICKLE_BYTES:
            raise pickle.UnpicklingError("more entries than fit into the file")
        return {key: value for key, value in pairs if type(key) is str}

    def _call(self) -> None:
        arguments = self.stack.pop()
        if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
            raise pickle.UnpicklingError(f"expected a call with at most {MAX_ARGUMENTS} arguments")
        self.stack[-1] = self.stack[-1](*arguments)

    def _fill(self, items: Iterable[Any]) -> None:
        """Put keys and values, which alternate, into the dictionary on top of the stack."""
        target, values = self.stack[-1], iter(items)
        pairs = zip(values, values, strict=True)
        if type(target) is dict:
            target.update((key, value) for key, value in pairs if type(key) is str)
        elif not isinstance(target, _Placeholder):
            raise pickle.UnpicklingError(f"expected entries of a dictionary, got some of {type(target).__name__}")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill((key, value))

    def _set_items(self) -> None:
        self._fill(self.pop_mark())

    def _dictionary(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._fill(items)

    def _drop(self) -> None:
        self.stack.pop()

    def _drop_marked(self) -> None:
        self.pop_mark()

    def _set(self) -> None:
        self.stack.append(_Placeholder())

    def _frozen_set(self) -> None:
        self.pop_mark()
        self.stack.append(_Placeholder())

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an instruction that no checkpoint has")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **dict.fromkeys(range(256), _refuse),
        **{code: handler for code, handler in pickle._Unpickler.dispatch.items() if code in _OPCODES},  # noqa: SLF001
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],  # noqa: SLF001 (allocates what it claims)
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _drop,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dictionary,
        pickle.EMPTY_SET[0]: _set,
        pickle.ADDITEMS[0]: _drop_marked,
        pickle.FROZENSET[0]: _frozen_set,
    }


def _rebuild_tensor(
    span: Span | UnreadTensor, offset: int, shape: Sequence[int], strides: Sequence[int]
) -> Tensor | UnreadTensor:
    return span if isinstance(span, UnreadTensor) else Tensor(span, offset, shape, strides)


def _rebuild_tensor_v2(
    span: Span | UnreadTensor,
    offset: int,
    shape: Sequence[int],
    strides: Sequence[int],
    _requires_grad: object = None,
    _hooks: object = None,
    metadata: object = None,
) -> Tensor | UnreadTensor:
    if metadata:
        raise ValueError("a tensor that is conjugated or negated when read")
    return _rebuild_tensor(span, offset, shape, strides)


def _rebuild_tensor_v3(*arguments: object) -> UnreadTensor:
    """Return a tensor of one of PyTorch's newest types, which the seventh argument names."""
    kind = arguments[6] if len(arguments) > 6 else None
    return UnreadTensor(kind.name.removeprefix("torch.") if isinstance(kind, _OpaqueType) else "another type")


def _rebuild_qtensor(span: object, *_: object) -> object:
    return span


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _rebuild_size(shape: object = ()) -> object:
    return shape


REBUILD: dict[tuple[str, str], Callable[..., object]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_qtensor"): _rebuild_qtensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch", "Size"): _rebuild_size,
}
"""The functions that a pickle may call, by (module, name): they rebuild tensors from storages."""
