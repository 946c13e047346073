"""Loads the tensors of an ONNX model: each claimed size is compared with the data before memory is allocated for it.

Weights in external files are views of these files. Refused: locations outside the model's folder, symbolic and hard
links, and all files but regular files; offsets, lengths and shapes that do not fit the data; element types of less than
a byte.
"""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import serde

from converter.sources.mmap_file import MAX_EXPANSION, mmap_file

UNREADABLE = (ir.AttributeType.TENSORS, ir.AttributeType.SPARSE_TENSOR, ir.AttributeType.SPARSE_TENSORS)
DATA_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


class ExternalWeights:
    """The external files that hold a model's weights, by the locations that the model states."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._files: dict[str, NDArray[np.uint8]] = {}
        self._claimed = 0

    @property
    def paths(self) -> list[Path]:
        """The external files that were read, sorted by location."""
        return [self._folder / location for location in sorted(self._files)]

    def load(self, model: ir.Model) -> None:
        """Load the numbers of every tensor, in place; raises ValueError if a tensor's claims are wrong, and OSError."""
        for holder, key, tensor in _tensors(model):
            loaded = self._load_tensor(tensor)
            if isinstance(holder, ir.Value):
                holder.const_value = loaded
            else:
                holder.attributes[key] = ir.AttrTensor(key, loaded)
        if self._claimed > MAX_EXPANSION * sum(file.size for file in self._files.values()):
            raise ValueError(f"external weights of {self._claimed >> 20} MiB in smaller files")

    def _load_tensor(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.StringTensor):
            if len(tensor.string_data()) != tensor.size:
                raise ValueError(f"tensor {tensor.name!r}: expected {tensor.size} strings, got another number")
            return tensor
        if tensor.dtype.bitwidth % 8 or min(tensor.shape.numpy(), default=0) < 0:
            raise ValueError(f"tensor {tensor.name!r}: expected whole bytes, got {tensor.dtype} {tensor.shape}")
        array = self._external(tensor) if isinstance(tensor, ir.ExternalTensor) else _inline(tensor)
        return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)

    def _external(self, tensor: ir.ExternalTensor) -> NDArray[np.generic]:
        shape = tensor.shape.numpy()
        if tensor.length not in (None, tensor.nbytes):
            raise ValueError(f"tensor {tensor.name!r}: expected {tensor.nbytes} bytes, got a length of {tensor.length}")
        if not tensor.size:
            return np.empty(shape, tensor.dtype.numpy())
        location = str(tensor.location)
        if location not in self._files:
            self._files[location] = mmap_file(self._checked_path(location))
        self._claimed += tensor.nbytes
        file, start = self._files[location], tensor.offset or 0
        if start + tensor.nbytes > file.size:
            raise ValueError(
                f"tensor {tensor.name!r}: {location!r} has {file.size} bytes, expected {start + tensor.nbytes}"
            )
        return np.ndarray(shape, tensor.dtype.numpy().newbyteorder("<"), file, start)

    def _checked_path(self, location: str) -> Path:
        path = self._folder / location
        if not os.path.lexists(path):
            raise ValueError(f"its weights {location!r} are missing; copy this file into its directory")
        if path.resolve() != path or not path.is_relative_to(self._folder) or not path.is_file():
            raise ValueError(
                f"weights in {location!r}: expected a regular file in the model's folder, got a link or another kind"
            )
        if path.stat().st_nlink > 1:
            raise ValueError(
                f"weights in {location!r}: expected a file with a single name, got a hard link; copy the file"
            )
        return path


def _inline(tensor: ir.TensorProtocol) -> NDArray[np.generic]:
    """Return the numbers of a tensor in the model file. This does not use onnx-ir, which would invent missing data."""
    proto = tensor.raw if isinstance(tensor, serde.TensorProtoTensor) else onnx.TensorProto()
    if tensor.size and not (proto.HasField("raw_data") or any(len(getattr(proto, field)) for field in DATA_FIELDS)):
        raise ValueError(f"tensor {tensor.name!r}: expected {tensor.size} numbers, got none")
    array: NDArray[np.generic] = tensor.numpy()
    return array


def _tensors(model: ir.Model) -> Iterator[tuple[ir.Value | ir.Node, str, ir.TensorProtocol]]:
    """Yield every tensor with its owner: an initializer and "", or a node and the name of an attribute."""
    functions = model.functions.values()
    for graph in (*model.graphs(), *(inner for function in functions for inner in function.subgraphs())):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, "", value.const_value
    for node in chain(model.graph.all_nodes(), *(function.all_nodes() for function in functions)):
        for key, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                yield node, key, attribute.as_tensor()
            if attribute.type in UNREADABLE:
                raise ValueError(f"node {node.name!r}: expected no {attribute.type.name} among its attributes")
