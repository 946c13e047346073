"""Every value's shape, read off a run.

A head's reshapes are often computed (Shape, Gather, Concat), so that no shape can be read off the graph. One run on
a window of the training size, with every intermediate value as an output, says them all.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.runtime import one_line, session

Shapes = Mapping[str, tuple[int, ...]]


def trace(model: ir.Model, window: tuple[int, int], scratch: Path) -> Shapes:
    """Run the model on one window (height, width); the shape of every value by its name."""
    image, outputs = model.graph.inputs[0], list(model.graph.outputs)
    computed = [value for node in model.graph for value in node.outputs if value.name]
    model.graph.outputs[:] = computed
    try:
        runner = session(model, scratch, optimise=False)
    finally:
        model.graph.outputs[:] = outputs
    pixels = probe(image, window)
    try:
        values = runner.run(None, {image.name: pixels})
    except Exception as error:  # ONNX Runtime raises its own kinds
        raise SourceError(
            f"window: the network does not run on {window[0]}×{window[1]} pixels; check --window: {one_line(error)}"
        ) from None
    shapes = {str(value.name): np.shape(array) for value, array in zip(computed, values, strict=True)}
    return {str(image.name): pixels.shape, **shapes}


def probe(image: ir.Value, window: tuple[int, int]) -> NDArray[np.float32]:
    """A batch of zeros for the graph's input: its own batch size and channels, (N, C, height, width)."""
    assert image.shape is not None  # noqa: S101 (readers check it)
    batch, channels = (size if isinstance(size, int) else 1 for size in list(image.shape)[:2])
    return np.zeros((batch, channels, *window), np.float32)
