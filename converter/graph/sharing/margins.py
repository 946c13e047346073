"""Margins: the cells of a window's map that depend on the window's own padding, along one axis.

At some layer a window's map has `size` cells. The padding of the window reaches `near` cells at its beginning and `far`
cells at its end; the cells between them, the interior, are equal to the dense map's and shared by all windows. A layer
with kernel k' (dilation included), stride s and paddings p, q has ⌊(size + p + q − k') / s⌋ + 1 cells, of which

    near' = ⌈(near + p) / s⌉        far' = the number of cells b with b·s − p + k' − 1 ≥ size − far

The dense map begins with the first interior cell of the first window, and ends with the last one of the last window. It
needs no padding, because the interior of a window reads none.

Margins may be cut off: then they have at most `limit` cells, and the cells beyond take the dense map's values, which
differ from those of the window by itself. The dense map is then that of the whole image, padded at the image's edges.
"""

from dataclasses import dataclass, replace

Span = tuple[int, int]
"""Cells [first, stop) of a window."""


@dataclass(frozen=True)
class AxisMargins:
    """The cells of a window's map along one axis; neighbouring cells are `stride` pixels apart."""

    size: int
    near: int = 0
    far: int = 0
    stride: int = 1
    limit: int | None = None
    """Largest number of cells of each margin. None: margins hold every cell that padding reaches."""

    @property
    def interior(self) -> Span:
        """The cells whose values are the dense map's."""
        return self.near, self.size - self.far

    @property
    def dense_first(self) -> int:
        """The first cell of the first window that the dense map holds."""
        return self.near if self.limit is None else 0

    def after_layer(self, *, reach: int, stride: int, before: int, after: int) -> "AxisReads | None":
        """Return what a convolution or pool reads, whose kernel spans `reach` cells; None if nothing would be shared.

        Negative paddings stand for cells that are left out.
        """
        size = (self.size + before + after - reach) // stride + 1
        near = max(0, -(-(self.near + before) // stride))
        far = max(0, size - max(0, -(-(self.size - self.far + before - reach + 1) // stride)))
        if self.limit is not None:
            near, far = min(near, self.limit), min(far, self.limit)
        if near:  # at least one of these cells reads the window: a part of padding alone would have no cells to read
            near = max(near, (before - reach) // stride + 2)
        if far:
            far = max(far, size - (self.size - 1 + before) // stride)
        if near + far >= size:
            return None
        first, stop = self.interior
        near_stop = (near - 1) * stride - before + reach
        far_first = (size - far) * stride - before
        far_stop = (size - 1) * stride - before + reach
        unread = stop - ((size - far - 1) * stride - before + reach)
        dense = near * stride - before - first, unread if unread >= stride else 0
        dense_pads = 0, 0
        if self.limit is not None:
            dense, dense_pads = (max(0, -before), max(0, -after)), (max(0, before), max(0, after))
        return AxisReads(
            before=self,
            after=replace(self, size=size, near=near, far=far, stride=self.stride * stride),
            near_own=(max(0, -before), min(first, near_stop)) if near else (0, 0),
            near_dense=(first, max(first, near_stop)) if near else (first, first),
            far_dense=(min(far_first, stop), stop) if far else (stop, stop),
            far_own=(max(far_first, stop), min(self.size, far_stop)) if far else (self.size, self.size),
            dense=dense,
            pads=(max(0, before) if near else 0, max(0, far_stop - self.size) if far else 0),
            dense_pads=dense_pads,
        )

    def widened(self, near: int, far: int) -> "AxisReads":
        """Return what wider margins read: their own cells, and dense cells beside them."""
        first, stop = self.interior
        return AxisReads(
            before=self,
            after=replace(self, near=near, far=far),
            near_own=(0, first),
            near_dense=(first, near),
            far_dense=(self.size - far, stop),
            far_own=(stop, self.size),
            dense=(near - first, far - self.far) if self.limit is None else (0, 0),
            pads=(0, 0),
            dense_pads=(0, 0),
        )


@dataclass(frozen=True)
class AxisReads:
    """What a layer reads of each kind of map along one axis, in cells of a window."""

    before: AxisMargins
    after: AxisMargins
    near_own: Span
    """Cells of the near margin that the near cells read, and `near_dense`, the interior cells after them."""
    near_dense: Span
    far_dense: Span
    far_own: Span
    dense: tuple[int, int]
    """Cells that the dense map leaves out at its beginning and at its end."""
    pads: tuple[int, int]
    """Padding before the near cells and after the far cells."""
    dense_pads: tuple[int, int]
    """Padding before and after the dense map, at the edges of the image."""
