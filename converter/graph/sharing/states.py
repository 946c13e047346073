"""The forms that a value takes while windows are shared: parts, whole windows, and one cell for each window."""

from dataclasses import dataclass

import onnx_ir as ir

from converter.graph.sharing.parts import Parts


@dataclass(frozen=True)
class Windows:
    """The maps of all windows, each whole: (rows · cols, C, height, width)."""

    value: ir.Value
    channels: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """One cell for each window: (1, C, rows, cols)."""

    value: ir.Value
    channels: int
    size: tuple[int, int] = (1, 1)


State = Parts | Windows | Grid
