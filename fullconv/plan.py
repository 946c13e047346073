"""The plan of a request: the tiles that run, and their cost in multiply-adds and bytes, without times."""

from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]
"""Vertical, then horizontal."""


@dataclass(frozen=True)
class PlannedView:
    """The plan for one of the sizes at which the image is scored."""

    image: Pair
    """Height and width in pixels."""
    cells: Pair
    """Rows and columns of windows."""
    tiles: int
    """Number of tiles that run, over all phases and including mirrored tiles."""
    tile: Pair
    """Height and width of the largest tile, in pixels."""
    halo: tuple[int, ...]
    """Cells at the edges of a tile that may be dropped: top, left, bottom, right."""
    phases: int
    """Number of passes whose grids interleave: 1, unless the stride is finer than that of the model's file."""
    flip: bool
    """Whether the mirrored image is scored too."""
    multiply_adds: float
    strip_rows: int
    """Rows of pixels in a strip. Two strips are in memory: one is scored while the next is read."""

    def document(self) -> dict[str, Any]:
        """Return the view as `--plan --json` prints it."""
        return {
            "image": list(self.image),
            "cells": list(self.cells),
            "tiles": self.tiles,
            "tile": list(self.tile),
            "halo": list(self.halo),
            "phases": self.phases,
            "flip": self.flip,
            "multiply_adds": self.multiply_adds,
            "strip_rows": self.strip_rows,
        }


@dataclass(frozen=True)
class Plan:
    """The work for one image, and its cost."""

    file: str
    """Name of the ONNX file."""
    multiply_adds: float
    bytes: float
    """Peak bytes of memory, without the model."""
    views: tuple[PlannedView, ...]
    """The plan for each size at which the image is scored."""

    def document(self) -> dict[str, Any]:
        """Return the plan as `--plan --json` prints it."""
        return {
            "file": self.file,
            "multiply_adds": self.multiply_adds,
            "bytes": self.bytes,
            "views": [view.document() for view in self.views],
        }
