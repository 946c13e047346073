"""The maps of all windows at some layer, as nine parts of them.

    near, near     near, dense     near, far        a corner of each window                (rows · cols, C, near, near)
    dense, near    dense, dense    dense, far       a strip beside each column of windows  (cols, C, H, near)
    far, near      far, dense      far, far         a strip above each row of windows      (rows, C, near, W)

The first word of a kind is vertical, the second horizontal. Part (dense, dense), (1, C, H, W), is one dense map, from
the first interior cell of the first window to the last one of the last, or that of the whole image if margins are cut
off; strips are as long as that map.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import onnx_ir as ir

from converter.graph.sharing.emitter import Emitter
from converter.graph.sharing.margins import AxisMargins, AxisReads, Span

NEAR, DENSE, FAR = "near", "dense", "far"
Kind = tuple[str, str]
ROWS, COLS = 2, 3
"""Axes of a map (N, C, H, W)."""


@dataclass(frozen=True)
class Parts:
    """The maps of all windows: the parts that are not empty, by their kind. `channels` is the size of axis C."""

    vertical: AxisMargins
    horizontal: AxisMargins
    channels: int
    maps: Mapping[Kind, ir.Value]

    @property
    def size(self) -> tuple[int, int]:
        """The size of the whole map of one window."""
        return self.vertical.size, self.horizontal.size

    @property
    def axes(self) -> tuple[AxisMargins, AxisMargins]:
        """The margins along both axes."""
        return self.vertical, self.horizontal


def kinds(axes: tuple[AxisMargins, AxisMargins]) -> Iterator[Kind]:
    """Yield the kinds of part that are not empty."""
    down, across = ([NEAR] * bool(axis.near) + [DENSE] + [FAR] * bool(axis.far) for axis in axes)
    return product(down, across)


def blocks(emitter: Emitter, parts: Parts, reads: tuple[AxisReads, AxisReads]) -> dict[Kind, ir.Value]:
    """Return what a layer reads for each kind of part, without padding."""
    return _Cutter(emitter, parts, reads).blocks()


def windows(emitter: Emitter, parts: Parts) -> ir.Value:
    """Return the whole map of every window, (rows · cols, C, height, width), ordered by rows."""
    whole = [axis.widened(axis.near, axis.far) for axis in parts.axes]
    return _Cutter(emitter, parts, (whole[0], whole[1])).windows()


@dataclass(frozen=True)
class _Cutter:
    """Cuts parts, and puts them together."""

    emitter: Emitter
    parts: Parts
    reads: tuple[AxisReads, AxisReads]

    def blocks(self) -> dict[Kind, ir.Value]:
        """Return what a layer reads for each kind of part."""
        after = tuple(each.after for each in self.reads)
        (top, bottom), (left, right) = (each.dense for each in self.reads)
        found = dict[Kind, ir.Value]()
        wanted = list(kinds((after[0], after[1])))
        strips = {side: self._row_strip(side) for side in (NEAR, FAR) if (side, DENSE) in wanted}
        columns = {side: self._column_strip(side) for side in (NEAR, FAR) if (DENSE, side) in wanted}
        for down, across in wanted:
            if (down, across) == (DENSE, DENSE):
                dense = self.parts.maps[DENSE, DENSE]
                block = self.emitter.cropped(dense, (top, left), (bottom, right))
            elif across == DENSE:
                block = self.emitter.sliced(strips[down], COLS, left, right)
            elif down == DENSE:
                block = self.emitter.sliced(columns[across], ROWS, top, bottom)
            else:
                block = self._corner(down, across, strips[down])
            found[down, across] = block
        return found

    def windows(self) -> ir.Value:
        """Return the whole map of every window."""
        down, across = self.parts.axes
        interior = self._rows_of_dense(down.interior)
        rows = list[ir.Value | None]()
        for side in (NEAR, DENSE, FAR):
            strip = interior if side == DENSE else self.parts.maps.get((side, DENSE))
            if strip is None:
                continue
            row = list[ir.Value | None]()
            for other in (NEAR, DENSE, FAR):
                if other == DENSE:
                    row.append(self._columns_of(strip, across.interior, _rows(down, side)))
                elif (DENSE, other) in self.parts.maps:
                    is_inside = side == DENSE
                    row.append(
                        self._rows_of_columns(other, down.interior) if is_inside else self.parts.maps[side, other]
                    )
            rows.append(self.emitter.joined(row, COLS))
        return self.emitter.joined(rows, ROWS)

    def _row_strip(self, side: str) -> ir.Value:
        """Return the rows that a near or far row strip reads, as long as the dense map: (rows, C, height, W)."""
        own, dense = _spans(self.reads[0], side)
        pieces = [
            self._own((side, DENSE), own, ROWS),
            self._rows_of_dense(dense) if dense[1] > dense[0] else None,
        ]
        return self.emitter.joined(pieces if side == NEAR else pieces[::-1], ROWS)

    def _column_strip(self, side: str) -> ir.Value:
        """Return the columns that a near or far column strip reads: (cols, C, H, width)."""
        own, dense = _spans(self.reads[1], side)
        gathered = None
        if dense[1] > dense[0]:
            cut = self._cut_columns(self._squeezed(), 2, dense)  # (C, H, cols, width)
            gathered = self.emitter.emit("Transpose", [cut], perm=[2, 0, 1, 3])
        pieces = [self._own((DENSE, side), own, COLS), gathered]
        return self.emitter.joined(pieces if side == NEAR else pieces[::-1], COLS)

    def _corner(self, down: str, across: str, strip: ir.Value) -> ir.Value:
        """Return what a corner of every window reads; `strip` is what its row strip reads."""
        (own_rows, dense_rows), (own, dense) = _spans(self.reads[0], down), _spans(self.reads[1], across)
        height = own_rows[1] - own_rows[0] + dense_rows[1] - dense_rows[0]
        beside = None
        if own[1] > own[0]:
            upper = self._own((down, across), own_rows, ROWS)
            inner = self._rows_of_columns(across, dense_rows) if dense_rows[1] > dense_rows[0] else None
            column = self.emitter.joined([upper, inner] if down == NEAR else [inner, upper], ROWS)
            beside = self._trimmed(column, across, own, COLS)
        gathered = self._columns_of(strip, dense, height) if dense[1] > dense[0] else None
        return self.emitter.joined([beside, gathered] if across == NEAR else [gathered, beside], COLS)

    def _own(self, kind: Kind, cells: Span, axis: int) -> ir.Value | None:
        """Return the rows (axis ROWS) or columns of a strip or corner that are wanted; None if no cell is wanted."""
        if cells[1] <= cells[0]:
            return None
        return self._trimmed(self.parts.maps[kind], kind[axis - ROWS], cells, axis)

    def _trimmed(self, value: ir.Value, side: str, cells: Span, axis: int) -> ir.Value:
        margins = self.parts.axes[axis - ROWS]
        first, stop = (0, margins.near) if side == NEAR else (margins.size - margins.far, margins.size)
        return self.emitter.sliced(value, axis, cells[0] - first, stop - cells[1])

    def _rows_of_dense(self, cells: Span) -> ir.Value:
        """Return interior rows of every row of windows, as long as the dense map: (rows, C, height, W)."""
        cut = self.emitter.emit("Gather", [self._squeezed(), self._index(0, cells)], axis=1)  # (C, rows, height, W)
        return self.emitter.emit("Transpose", [cut], perm=[1, 0, 2, 3])

    def _columns_of(self, strip: ir.Value, cells: Span, height: int) -> ir.Value:
        """Return interior columns of every window, from a strip (rows, C, height, W)."""
        cut = self._cut_columns(strip, COLS, cells)  # (rows, C, height, cols, width)
        moved = self.emitter.emit("Transpose", [cut], perm=[0, 3, 1, 2, 4])
        return self._flattened(moved, height, cells[1] - cells[0])

    def _rows_of_columns(self, side: str, cells: Span) -> ir.Value:
        """Return interior rows of every window, from the column strip of a side, (cols, C, H, width)."""
        strip, margins = self.parts.maps[DENSE, side], self.parts.horizontal
        cut = self.emitter.emit("Gather", [strip, self._index(0, cells)], axis=ROWS)  # (cols, C, rows, height, width)
        moved = self.emitter.emit("Transpose", [cut], perm=[2, 0, 1, 3, 4])
        return self._flattened(moved, cells[1] - cells[0], margins.near if side == NEAR else margins.far)

    def _flattened(self, value: ir.Value, height: int, width: int) -> ir.Value:
        """Return (rows, cols, C, height, width) as (rows · cols, C, height, width)."""
        shape = self.emitter.constant([-1, self.parts.channels, height, width])
        return self.emitter.emit("Reshape", [value, shape])

    def _squeezed(self) -> ir.Value:
        """Return the dense map as (C, H, W)."""
        return self.emitter.emit("Squeeze", [self.parts.maps[DENSE, DENSE], self.emitter.constant([0])])

    def _cut_columns(self, value: ir.Value, place: int, cells: Span) -> ir.Value:
        """Return interior columns of every column of windows, (..., cols, width, ...) in place of an axis."""
        margins = self.parts.horizontal
        return self.emitter.columns(value, place, margins.stride, cells[0] - margins.dense_first, cells[1] - cells[0])

    def _index(self, axis: int, cells: Span) -> ir.Value:
        margins = self.parts.axes[axis]
        return self.emitter.cells(axis, margins.stride, cells[0] - margins.dense_first, cells[1] - cells[0])


def _spans(reads: AxisReads, side: str) -> tuple[Span, Span]:
    """Return the own and the dense cells that one side reads."""
    return (reads.near_own, reads.near_dense) if side == NEAR else (reads.far_own, reads.far_dense)


def _rows(margins: AxisMargins, side: str) -> int:
    interior = margins.size - margins.near - margins.far
    return {NEAR: margins.near, DENSE: interior, FAR: margins.far}[side]
