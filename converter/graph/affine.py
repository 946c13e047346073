"""The algebra of convolutionalization: each element of a tensor as an affine combination of elements of a feature map.

A *feature map* (N, C, h, w) grows with the image. An *affine view* describes another tensor, for one window:

    element[e] = offset[e] + sum over t of weight[e, t] · map.flat[index[e, t]]

Reshapes, transposes, slices and paddings gather elements; averages and constant factors are linear. Therefore a chain
of such operators is one affine view, whichever operators an exporter wrote. If all rows of a view have the same pattern
of elements at several positions of the map, a *stencil*, then a fully connected layer of these rows is a convolution of
the map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[Any]
Size = tuple[int, int, int, int]

MAX_TERMS, MAX_TERMS_PER_ELEMENT = 1 << 20, 64
"""Limits on the terms of a view whose elements are sums: in total, and per element of its map. The larger limit
applies."""


class TooManyTermsError(Exception):
    """A view has too many terms, because it has sums over the whole map at every position of the map.

    The number of terms grows with the square of the map's size, and no convolution computes such sums.
    """


@dataclass(frozen=True)
class FeatureMap:
    """A value of the graph that grows with the image; `size` is its shape (N, C, h, w) for one window."""

    value: ir.Value
    size: Size

    def flat_index(self, image: Ints, channel: Ints, row: Ints, col: Ints) -> Ints:
        """Return indices into the flattened map; the arguments broadcast."""
        _, channels, height, width = self.size
        return ((image * channels + channel) * height + row) * width + col

    def coordinates(self, index: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Return image, channel, row and column of indices into the flattened map.

        This does not use numpy's unravel_index, which gives wrong results for some arrays in numpy 2.4.
        """
        _, channels, height, width = self.size
        rest, col = np.divmod(index, width)
        rest, row = np.divmod(rest, height)
        image, channel = np.divmod(rest, channels)
        return image, channel, row, col


@dataclass(frozen=True, eq=False)
class AffineView:
    """A tensor of shape `shape`, each element an affine combination of `terms` elements of a feature map.

    `index` (*shape, terms) int64 points into the flattened map. `weight` is (*shape, terms), or None if all weights are
    1; `offset` is (*shape), or None if all offsets are 0.
    """

    map: FeatureMap
    index: Ints
    weight: Floats | None = None
    offset: Floats | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self.index.shape[:-1]

    @property
    def is_selection(self) -> bool:
        """Whether each element is one unchanged element of the map."""
        return self.weight is None and self.offset is None and self.index.shape[-1] == 1

    @property
    def sums_whole_map(self) -> bool:
        """Whether each element has at least as many terms as the map has positions, and the map has several."""
        positions = self.map.size[2] * self.map.size[3]
        return bool(self.index.shape[-1] >= positions > 1)

    @property
    def is_identity(self) -> bool:
        """Whether the tensor is the map itself."""
        if not self.is_selection or self.shape != self.map.size:
            return False
        return np.array_equal(self.index.ravel(), np.arange(math.prod(self.map.size)))

    @property
    def channels_last(self) -> "AffineView":
        """This tensor (N, C, h, w) transposed to (N, h, w, C)."""
        return self.gather(self._element_numbers.transpose(0, 2, 3, 1))

    @property
    def channels_first(self) -> "AffineView":
        """This tensor (N, h, w, C) transposed to (N, C, h, w)."""
        return self.gather(self._element_numbers.transpose(0, 3, 1, 2))

    def gather(self, order: Ints) -> "AffineView":
        """Return the tensor of the shape of `order`, which holds indices into this flattened tensor, or -1 for a zero.

        Raises TooManyTermsError if the elements are sums and the result would have too many terms.
        """
        terms = self.index.shape[-1]
        if terms > 1 and order.size * terms > max(MAX_TERMS, MAX_TERMS_PER_ELEMENT * math.prod(self.map.size)):
            raise TooManyTermsError
        source, is_zero = np.maximum(order, 0), order < 0
        index = self.index.reshape(-1, terms)[source]
        weight = None if self.weight is None else self.weight.reshape(-1, terms)[source]
        offset = None if self.offset is None else self.offset.reshape(-1)[source]
        if is_zero.any():
            weight = np.where(is_zero[..., None], 0, 1 if weight is None else weight) * np.ones(terms)
            offset = None if offset is None else np.where(is_zero, 0, offset)
        return replace(self, index=index, weight=weight, offset=offset)

    def reshape(self, shape: tuple[int, ...]) -> "AffineView":
        """Return the same elements in another shape."""
        return replace(
            self,
            index=self.index.reshape(*shape, self.index.shape[-1]),
            weight=None if self.weight is None else self.weight.reshape(*shape, self.index.shape[-1]),
            offset=None if self.offset is None else self.offset.reshape(shape),
        )

    def broadcast_to(self, shape: tuple[int, ...]) -> "AffineView":
        """Return the tensor broadcast to a shape, as numpy broadcasts."""
        return self if shape == self.shape else self.gather(np.broadcast_to(self._element_numbers, shape))

    def as_rows(self, axes: Sequence[int]) -> "AffineView":
        """Return the elements as (rows, features): `axes` are flattened into features, the others into rows."""
        rest = [axis for axis in range(len(self.shape)) if axis not in axes]
        order = self._element_numbers.transpose(*rest, *axes)
        return self.gather(order.reshape(-1, math.prod(self.shape[axis] for axis in axes)))

    def from_rows(self, axis: int, shape: tuple[int, ...]) -> "AffineView":
        """Return this tensor (rows, features) in a shape of which `axis` holds the features."""
        rest = [size for position, size in enumerate(shape) if position != axis]
        order = np.arange(math.prod(shape)).reshape(*rest, shape[axis])
        return self.gather(np.moveaxis(order, -1, axis))

    def scale_and_shift(self, factor: Floats | float, shift: Floats | float) -> "AffineView":
        """Return element · factor + shift; both broadcast to the tensor's shape."""
        weight = np.broadcast_to(factor, self.shape)[..., None] * (1.0 if self.weight is None else self.weight)
        offset = np.broadcast_to(factor, self.shape) * (0.0 if self.offset is None else self.offset) + shift
        weight = np.broadcast_to(weight, self.index.shape)
        return replace(self, weight=weight, offset=np.broadcast_to(offset, self.shape))

    def sum_along(self, axes: Sequence[int]) -> "AffineView":
        """Return the sums along some axes as (rows,): the summed elements become terms."""
        rows = self.as_rows(axes)
        count = rows.shape[0]
        return AffineView(
            self.map,
            rows.index.reshape(count, -1),
            None if rows.weight is None else rows.weight.reshape(count, -1),
            None if rows.offset is None else rows.offset.sum(-1),
        )

    def add(self, other: "AffineView", sign: int) -> "AffineView":
        """Return the sum, or with sign -1 the difference, of two tensors of one shape that view the same map."""
        weights = [
            factor * (np.ones(view.index.shape) if view.weight is None else view.weight)
            for view, factor in ((self, 1), (other, sign))
        ]
        offsets = [0.0 if view.offset is None else view.offset for view in (self, other)]
        return AffineView(
            self.map,
            np.concatenate([self.index, other.index], -1),
            np.concatenate(weights, -1),
            np.broadcast_to(offsets[0] + sign * offsets[1], self.shape),
        )

    def channel_indices(self) -> Ints:
        """Return the channel of each element of a selection, (*shape)."""
        return self.map.coordinates(self.index[..., 0])[1]

    def position_indices(self) -> Ints:
        """Return the index of each element's position in its map, ignoring the channel, of a selection: (*shape)."""
        image, _, row, col = self.map.coordinates(self.index[..., 0])
        return (image * self.map.size[2] + row) * self.map.size[3] + col

    def blocks(self) -> tuple[int, Ints] | None:
        """Return how a selection (N, C, b·h, b·w) takes the channels of each position of its map as a block of b×b.

        The result is b and the channels of the map (C, b, b) that become a block; None for any other view.
        """
        if not self.is_selection or len(self.shape) != 4:
            return None
        batch, _, height, width = self.shape
        size, rest = divmod(height, self.map.size[2])
        if size < 2 or rest or (batch, width) != (self.map.size[0], size * self.map.size[3]):
            return None
        taken = self.channel_indices()[0, :, :size, :size]
        image, row, col = np.ogrid[:batch, :height, :width]
        own = taken[:, np.arange(height)[:, None] % size, np.arange(width) % size]
        expected = self.map.flat_index(image[:, None], own, row[:, None] // size, col[:, None] // size)
        return (size, taken) if np.array_equal(self.index[..., 0], expected) else None

    def stencil(self, axes: Sequence[int]) -> "Stencil | None":
        """Return the pattern that all rows have, where the features lie along `axes`; None if rows differ."""
        return _stencil(self.as_rows(axes))

    @property
    def _element_numbers(self) -> Ints:
        """The numbers 0, 1, 2 ... in the shape of the tensor."""
        return np.arange(math.prod(self.shape)).reshape(self.shape)


def identity_view(source: FeatureMap) -> AffineView:
    """Return a map as a view of itself."""
    return AffineView(source, np.arange(math.prod(source.size)).reshape(*source.size, 1))


def channels_at(source: FeatureMap, anchors: Ints) -> AffineView:
    """Return all channels of a map at `anchors` (rows, 3), each (image, row, column), as a view (rows, channels)."""
    image, row, col = (part[:, None] for part in anchors.T)
    return AffineView(source, source.flat_index(image, np.arange(source.size[1]), row, col)[..., None])


class Lattice(NamedTuple):
    """Regularly spaced positions of a map: the first one and the strides, each (rows, columns)."""

    first: tuple[int, int]
    strides: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Stencil:
    """A pattern of features, each an affine combination of elements of a map relative to an anchor.

    `channel`, `row` and `col` are (features, terms); rows and columns are counted from the anchor. `weight` is
    (features, terms), or None if all weights are 1; `offset` is (features,), or None if all offsets are 0. `anchors`
    (rows, 3) holds the image, row and column at which the pattern lies, one anchor per row of the view.
    """

    channel: Ints
    row: Ints
    col: Ints
    weight: Floats | None
    offset: Floats | None
    anchors: Ints

    @property
    def is_pointwise(self) -> bool:
        """Whether all elements lie at the anchor."""
        return not self.row.any() and not self.col.any()

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns from the first element to the last."""
        return int(self.row.max()) + 1, int(self.col.max()) + 1

    @property
    def is_rectangle(self) -> bool:
        """Whether the pattern holds each element of a rectangle exactly once."""
        height, width = self.extent
        return np.array_equal(np.sort((self.row * width + self.col).ravel()), np.arange(height * width))

    @property
    def selects_channels(self) -> bool:
        """Whether each feature is one unchanged channel at the anchor."""
        is_selection = self.weight is None and self.offset is None and self.channel.shape[1] == 1
        return is_selection and self.is_pointwise

    def lattice(self, shape: tuple[int, ...]) -> Lattice | None:
        """Return the lattice that the anchors form if they are (images, rows, cols); None if they form no lattice."""
        anchors = self.anchors.reshape(*shape, 3)
        first = anchors[0, 0, 0]
        second = anchors[0, min(1, shape[1] - 1), min(1, shape[2] - 1)]
        strides = np.maximum((second - first)[1:], 1)
        indices = np.moveaxis(np.indices(shape), 0, -1)
        if first[0] or not np.array_equal(anchors, indices * [1, *strides] + first):
            return None
        return Lattice((int(first[1]), int(first[2])), (int(strides[0]), int(strides[1])))

    def is_all_channels(self, count: int) -> bool:
        """Return whether the features are all channels of the map, unchanged and in order."""
        return self.selects_channels and np.array_equal(self.channel, np.arange(count)[:, None])

    def kernel(self, weights: Floats, channels: int) -> tuple[Floats, list[int]]:
        """Return weights (outputs, features) as a kernel (outputs, channels, height, width), and its dilations."""
        dilations = [int(np.gcd.reduce(along.ravel())) or 1 for along in (self.row, self.col)]
        rows, cols = self.row // dilations[0], self.col // dilations[1]
        shape = (channels, int(rows.max()) + 1, int(cols.max()) + 1)
        flat = (self.channel * shape[1] + rows) * shape[2] + cols
        count = math.prod(shape)
        if self.weight is None and np.array_equal(flat.ravel(), np.arange(count)):
            return weights.reshape(-1, *shape), dilations
        kernel = np.zeros((weights.shape[0], count), weights.dtype)
        if self.weight is None and len(np.unique(flat)) == flat.size == weights.shape[1]:
            kernel[:, flat[:, 0]] = weights
            return kernel.reshape(-1, *shape), dilations
        for term in range(flat.shape[1]):
            factors = 1 if self.weight is None else self.weight[:, term].astype(weights.dtype)
            np.add.at(kernel.T, flat[:, term], (weights * factors).T)
        return kernel.reshape(-1, *shape), dilations


def _stencil(rows: AffineView) -> Stencil | None:
    """Return the pattern that all rows of a view (rows, features) have; None if they differ."""
    image, channel, row, col = rows.map.coordinates(rows.index)
    is_used = np.ones(rows.index.shape, np.bool_) if rows.weight is None else rows.weight != 0
    if not is_used.any((1, 2)).all():
        return None
    beyond = max(rows.map.size)
    images, tops, lefts = (np.where(is_used, part, beyond).min((1, 2)) for part in (image, row, col))
    relative = [image - images[:, None, None], channel, row - tops[:, None, None], col - lefts[:, None, None]]
    other_images, *places = (np.where(is_used, part, 0) for part in relative)
    pattern = [*places, *(part for part in (rows.weight, rows.offset) if part is not None)]
    if other_images.any() or not all((part == part[:1]).all() for part in pattern):
        return None
    return Stencil(
        channel=places[0][0],
        row=places[1][0],
        col=places[2][0],
        weight=None if rows.weight is None else rows.weight[0],
        offset=None if rows.offset is None else rows.offset[0],
        anchors=np.stack([images, tops, lefts], -1),
    )
