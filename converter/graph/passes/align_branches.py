"""Crops branches that meet to one size: at another stride a branch may have rows that its native strides left out.

Where maps of m and n rows meet, each keeps its first min(m, n) rows; columns are cropped in the same way.
"""

import numpy as np
import onnx_ir as ir

from converter.graph.geometry import image_geometry, propagate
from converter.graph.passes.crop_grid import crop


class AlignBranchesPass(ir.passes.InPlacePass):
    """Align the branches of a network for windows (height, width) in pixels."""

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self._window = window

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; adds nodes named "VALUE.crop"."""
        graph, modified = model.graph, False
        known = image_geometry(graph)
        for node in list(graph):
            maps = [(place, value) for place, value in enumerate(node.inputs) if value is not None and value in known]
            counts = np.array([known[value].output_size(self._window) for _, value in maps])
            for (position, value), count in zip(maps, counts, strict=True):
                if (count > counts.min(0)).any():
                    cropped = crop(graph, value, (count - counts.min(0)).tolist())
                    propagate(known, cropped, self._window)
                    node.replace_input_with(position, cropped.outputs[0])
                    modified = True
            propagate(known, node, self._window)
        return ir.passes.PassResult(model, modified)
