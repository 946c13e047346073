"""New constants of a graph."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Register an initializer, under a name like the wanted one that no other has."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
