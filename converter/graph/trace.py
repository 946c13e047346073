"""What one run on a window says of a graph: every value's shape, and what does not depend on the pixels.

A head's reshapes are often computed (Shape, Gather, Concat), so that no shape can be read off the graph, and in old
files the weights come out of a Reshape. One run, with every intermediate value as an output, says it all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError, UnsupportedError
from converter.runtime import one_line, session

SHAPE_OPERATORS = ("Shape", "Size")


@dataclass(frozen=True)
class Trace:
    """By name: every value's shape and type for one window, and the values that the pixels do not change."""

    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, np.dtype[np.generic]]
    constants: Mapping[str, NDArray[np.generic]]


class EveryValue:
    """A graph whose every value is an output."""

    def __init__(self, model: ir.Model, scratch: Path) -> None:
        outputs = list(model.graph.outputs)
        self._computed = [
            value
            for node in model.graph
            for value in node.outputs
            if value.name and (value in outputs or not value.is_graph_output())  # a branch may hand out what is outside
        ]
        model.graph.outputs[:] = self._computed
        try:
            self._session = session(model, scratch, optimise=False)
        finally:
            model.graph.outputs[:] = outputs

    def __call__(self, feed: Mapping[str, NDArray[np.generic]]) -> dict[ir.Value, NDArray[np.generic]]:
        """Run it; raises ONNX Runtime's own errors."""
        return dict(zip(self._computed, self._session.run(None, feed), strict=True))


def trace(model: ir.Model, window: tuple[int, int], layout: str, scratch: Path) -> Trace:
    """Run the model on one window (height, width) of zeros in its layout, "NCHW" or "NHWC"."""
    _check_padding(model.graph, max(window))
    image = model.graph.inputs[0]
    every, pixels = EveryValue(model, scratch), _zeros(image, window, layout)
    try:
        values = every({str(image.name): pixels})
    except Exception as error:  # ONNX Runtime raises its own kinds
        raise SourceError(
            f"window: the network does not run on {window[0]}×{window[1]} pixels; check --window: {one_line(error)}"
        ) from None
    for value, array in values.items():
        if not hasattr(array, "shape"):
            raise UnsupportedError(f"value {value.name!r}: expected a tensor, got a sequence; export it traced")
    of_pixels = depending(model.graph)
    named = {str(image.name): pixels, **{str(value.name): array for value, array in values.items()}}
    return Trace(
        shapes={name: array.shape for name, array in named.items()},
        types={name: array.dtype for name, array in named.items()},
        constants={str(value.name): array for value, array in values.items() if value not in of_pixels},
    )


def _check_padding(graph: ir.Graph, most: int) -> None:
    """More padding than window makes maps larger than any memory, and is no classifier's."""
    for node in graph:
        pads = node.attributes.get("pads")
        if pads is not None and max(map(abs, pads.as_ints()), default=0) > most:
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}): expected pads of at most the window's {most} pixels, "
                f"got {list(pads.as_ints())}"
            )


def depending(graph: ir.Graph) -> set[ir.Value]:
    """The values that depend on the pixels, not on the image's size alone."""
    found = {graph.inputs[0]}
    for node in graph:
        if node.op_type == "If" or (node.op_type not in SHAPE_OPERATORS and found.intersection(node.inputs)):
            found.update(node.outputs)
    return found


def _zeros(image: ir.Value, window: tuple[int, int], layout: str) -> NDArray[np.generic]:
    """A batch for the graph's input, of its own batch size and channels."""
    assert image.shape is not None  # noqa: S101 (readers check it)
    assert image.dtype is not None  # noqa: S101
    sizes = {axis: size if isinstance(size, int) else 1 for axis, size in zip(layout, image.shape, strict=True)}
    sizes |= {"H": window[0], "W": window[1]}
    return np.zeros([sizes[axis] for axis in layout], image.dtype.numpy())
