"""Rows of a grid in blocks of equal height, for formats that compress blocks of rows together."""

from dataclasses import dataclass, field

from fullconv.grid import GridRows, RowSink, join_rows


@dataclass
class RowBlocks:
    """A `RowSink` that passes the rows on in blocks, which begin at multiples of `height`."""

    sink: RowSink
    height: int
    """Rows of a block; the last block may have fewer."""
    count: int
    """Rows of the whole grid."""
    _waiting: list[GridRows] = field(init=False, default_factory=list)

    def __call__(self, rows: GridRows) -> None:
        """Take rows; those of a block wait, as a copy, until it is complete."""
        at, end = rows.first, rows.first + len(rows.scores)
        while at < end:
            stop = min(end, (at // self.height + 1) * self.height)
            part = _cut(rows, at, stop)
            if stop % self.height and stop < self.count:
                self._waiting.append(_copy(part))
            else:
                self.sink(join_rows([*self._waiting, part]))
                self._waiting.clear()
            at = stop


def _cut(rows: GridRows, first: int, stop: int) -> GridRows:
    """Return rows [first, stop) of the grid."""
    part = slice(first - rows.first, stop - rows.first)
    positions = None if rows.positions is None else rows.positions[part]
    further = None if rows.further is None else rows.further[part]
    return GridRows(first, rows.scores[part], positions, further)


def _copy(rows: GridRows) -> GridRows:
    """Return a copy, which does not hold the memory of further rows."""
    positions = None if rows.positions is None else rows.positions.copy()
    further = None if rows.further is None else rows.further.copy()
    return GridRows(rows.first, rows.scores.copy(), positions, further)
