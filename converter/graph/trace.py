"""Runs a graph on one window to find every value's shape and type, and the values that do not depend on the pixels.

A head's reshapes are often computed (Shape, Gather, Concat), so that the graph does not state the shapes, and in old
files the weights are the output of a Reshape. A run whose outputs are all intermediate values shows both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError, UnsupportedError
from converter.messages import one_line
from converter.runtime import session

SHAPE_OPERATORS = ("Shape", "Size")
"""Operators whose output depends on an image's size, but not on its pixels."""


@dataclass(frozen=True)
class Trace:
    """Every value's shape and type for one window, and the values that do not depend on the pixels, by name."""

    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, np.dtype[np.generic]]
    constants: Mapping[str, NDArray[np.generic]]


class IntermediateValues:
    """Runs a graph and returns the value of every node's outputs."""

    def __init__(self, model: ir.Model, scratch: Path) -> None:
        outputs = list(model.graph.outputs)
        self._values = [
            value
            for node in model.graph
            for value in node.outputs
            if value.name and (value in outputs or not value.is_graph_output())  # a branch may return an outer value
        ]
        model.graph.outputs[:] = self._values
        try:
            self._session = session(model, scratch, optimise=False)
        finally:
            model.graph.outputs[:] = outputs

    def __call__(self, feed: Mapping[str, NDArray[np.generic]]) -> dict[ir.Value, NDArray[np.generic]]:
        """Run the graph; raises ONNX Runtime's own errors."""
        return dict(zip(self._values, self._session.run(None, feed), strict=True))


def trace(model: ir.Model, window: tuple[int, int], layout: str, scratch: Path) -> Trace:
    """Run a model on one window (height, width) of zeros; `layout` is that of its input, "NCHW" or "NHWC".

    Raises SourceError if the network does not run on that window, UnsupportedError if it has values other than
    tensors.
    """
    _check_padding(model.graph, max(window))
    image = model.graph.inputs[0]
    intermediate, pixels = IntermediateValues(model, scratch), _zeros(image, window, layout)
    try:
        values = intermediate({str(image.name): pixels})
    except Exception as error:  # ONNX Runtime raises its own kinds
        raise SourceError(
            f"window: the network does not run on {window[0]}×{window[1]} pixels; check --window: {one_line(error)}"
        ) from None
    for value, array in values.items():
        if not hasattr(array, "shape"):
            raise UnsupportedError(f"value {value.name!r}: expected a tensor, got a sequence; export it by tracing")
    of_pixels = values_of_pixels(model.graph)
    named = {str(image.name): pixels, **{str(value.name): array for value, array in values.items()}}
    return Trace(
        shapes={name: array.shape for name, array in named.items()},
        types={name: array.dtype for name, array in named.items()},
        constants={str(value.name): array for value, array in values.items() if value not in of_pixels},
    )


def values_of_pixels(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on the pixels, and not on the image's size alone."""
    found = {graph.inputs[0]}
    for node in graph:
        if node.op_type == "If" or (node.op_type not in SHAPE_OPERATORS and found.intersection(node.inputs)):
            found.update(node.outputs)
    return found


def _check_padding(graph: ir.Graph, most: int) -> None:
    """Raise UnsupportedError if padding exceeds the window: the maps might not fit into memory."""
    for node in graph:
        pads = node.attributes.get("pads")
        if pads is not None and max(map(abs, pads.as_ints()), default=0) > most:
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}): expected pads of at most the window's {most} pixels, "
                f"got {list(pads.as_ints())}"
            )


def _zeros(image: ir.Value, window: tuple[int, int], layout: str) -> NDArray[np.generic]:
    """Return a batch of zeros for a graph's input, with the batch size and channels that the input states."""
    assert image.shape is not None  # noqa: S101 (readers check it)
    assert image.dtype is not None  # noqa: S101
    sizes = {axis: size if isinstance(size, int) else 1 for axis, size in zip(layout, image.shape, strict=True)}
    sizes |= {"H": window[0], "W": window[1]}
    return np.zeros([sizes[axis] for axis in layout], image.dtype.numpy())
