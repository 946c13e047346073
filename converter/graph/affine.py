"""What a tensor's elements are in terms of a map: the algebra under the lifting pass.

A *map* (N, C, h, w) grows with the image by itself. A *form* says what each element of some other tensor is, for one
window of the training size:

    element[e] = offset[e] + sum over t of weight[e, t] · map.flat[index[e, t]]

Reshapes, transposes, slices and paddings only move elements about; averages and constant factors are linear: all of it
is one form, whatever an exporter wrote. A fully connected layer of a form is a convolution of its map, if the rows of
the form are one pattern at several positions: a *stencil*.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[Any]
Size = tuple[int, int, int, int]

MOST_TERMS, TERMS_EACH = 1 << 20, 64
"""Terms that a form of sums may have: that many, or that many for each element of its map, whichever is more."""


class WholeMapError(Exception):
    """A form whose terms are too many: sums over the whole map were put at the map's positions.

    Their number grows with the square of the map, and no convolution gives what comes of it.
    """


@dataclass(frozen=True)
class Map:
    """A value of the graph that grows with the image, and its (N, C, h, w) for one window."""

    value: ir.Value
    size: Size

    def flat(self, image: Ints, channel: Ints, row: Ints, col: Ints) -> Ints:
        """Positions in the flattened map; the arguments broadcast."""
        _, channels, height, width = self.size
        return ((image * channels + channel) * height + row) * width + col

    def coordinates(self, index: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Image, channel, row and column of positions in the flattened map (numpy 2.4's unravel_index errs on some)."""
        _, channels, height, width = self.size
        rest, col = np.divmod(index, width)
        rest, row = np.divmod(rest, height)
        image, channel = np.divmod(rest, channels)
        return image, channel, row, col


@dataclass(frozen=True, eq=False)
class Form:
    """Elements of shape `shape`, each an affine combination of `terms` elements of a map.

    `index` is (*shape, terms) int64 into the flattened map; `weight` (*shape, terms), None for ones; `offset` (*shape),
    None for zeros.
    """

    map: Map
    index: Ints
    weight: Floats | None = None
    offset: Floats | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.index.shape[:-1]

    @property
    def pure(self) -> bool:
        """Whether each element is one element of the map as it is."""
        return self.weight is None and self.offset is None and self.index.shape[-1] == 1

    @property
    def sums_map(self) -> bool:
        """Whether each element has as many terms as the map has positions, and these are several."""
        positions = self.map.size[2] * self.map.size[3]
        return bool(self.index.shape[-1] >= positions > 1)

    @property
    def whole(self) -> bool:
        """Whether this is the map itself."""
        count = math.prod(self.map.size)
        return self.pure and self.shape == self.map.size and np.array_equal(self.index.ravel(), np.arange(count))

    @property
    def channels_last(self) -> "Form":
        """The form of (N, C, h, w) turned to (N, h, w, C)."""
        return self.moved(np.arange(math.prod(self.shape)).reshape(self.shape).transpose(0, 2, 3, 1))

    @property
    def channels_first(self) -> "Form":
        """The form of (N, h, w, C) turned to (N, C, h, w)."""
        return self.moved(np.arange(math.prod(self.shape)).reshape(self.shape).transpose(0, 3, 1, 2))

    def moved(self, order: Ints) -> "Form":
        """Elements put in another order; `order` holds positions in the flattened tensor, -1 for a zero.

        Raises WholeMapError if the elements are sums and there would be too many terms.
        """
        terms = self.index.shape[-1]
        if terms > 1 and order.size * terms > max(MOST_TERMS, TERMS_EACH * math.prod(self.map.size)):
            raise WholeMapError
        pick, hole = np.maximum(order, 0), order < 0
        index = self.index.reshape(-1, terms)[pick]
        weight = None if self.weight is None else self.weight.reshape(-1, terms)[pick]
        offset = None if self.offset is None else self.offset.reshape(-1)[pick]
        if hole.any():
            weight = np.where(hole[..., None], 0, 1 if weight is None else weight) * np.ones(terms)
            offset = None if offset is None else np.where(hole, 0, offset)
        return replace(self, index=index, weight=weight, offset=offset)

    def reshaped(self, shape: tuple[int, ...]) -> "Form":
        """The same elements in another shape."""
        return replace(
            self,
            index=self.index.reshape(*shape, self.index.shape[-1]),
            weight=None if self.weight is None else self.weight.reshape(*shape, self.index.shape[-1]),
            offset=None if self.offset is None else self.offset.reshape(shape),
        )

    def broadcast(self, shape: tuple[int, ...]) -> "Form":
        """Elements repeated along axes of 1, as numpy broadcasts."""
        if shape == self.shape:
            return self
        return self.moved(np.broadcast_to(np.arange(math.prod(self.shape)).reshape(self.shape), shape))

    def with_last(self, axes: Sequence[int]) -> "Form":
        """Elements as (rows, features), the features being those along some axes."""
        rest = [axis for axis in range(len(self.shape)) if axis not in axes]
        positions = np.arange(math.prod(self.shape)).reshape(self.shape).transpose(*rest, *axes)
        return self.moved(positions.reshape(-1, math.prod(self.shape[axis] for axis in axes)))

    def along(self, axis: int, shape: tuple[int, ...]) -> "Form":
        """A form (rows, features) in another shape, the features along an axis of it."""
        rest = [size for position, size in enumerate(shape) if position != axis]
        order = np.arange(math.prod(shape)).reshape(*rest, shape[axis])
        return self.moved(np.moveaxis(order, -1, axis))

    def scaled(self, factor: Floats | float, shift: Floats | float) -> "Form":
        """Scale and shift: element * factor + shift, both broadcast to the tensor's shape."""
        weight = np.broadcast_to(factor, self.shape)[..., None] * (1.0 if self.weight is None else self.weight)
        offset = np.broadcast_to(factor, self.shape) * (0.0 if self.offset is None else self.offset) + shift
        weight = np.broadcast_to(weight, self.index.shape)
        return replace(self, weight=weight, offset=np.broadcast_to(offset, self.shape))

    def summed(self, axes: Sequence[int]) -> "Form":
        """Sums along axes, (rows,): the elements become further terms."""
        rows = self.with_last(axes)
        count = rows.shape[0]
        return Form(
            self.map,
            rows.index.reshape(count, -1),
            None if rows.weight is None else rows.weight.reshape(count, -1),
            None if rows.offset is None else rows.offset.sum(-1),
        )

    def plus(self, other: "Form", sign: int) -> "Form":
        """The sum, or with sign -1 the difference, of two forms of one map and shape."""
        weights = [
            factor * (np.ones(form.index.shape) if form.weight is None else form.weight)
            for form, factor in ((self, 1), (other, sign))
        ]
        offsets = [0.0 if form.offset is None else form.offset for form in (self, other)]
        return Form(
            self.map,
            np.concatenate([self.index, other.index], -1),
            np.concatenate(weights, -1),
            np.broadcast_to(offsets[0] + sign * offsets[1], self.shape),
        )

    def channels(self) -> Ints:
        """Which channel each element of a pure form is of, (*shape)."""
        return self.map.coordinates(self.index[..., 0])[1]

    def positions(self) -> Ints:
        """Where in the map each element of a pure form is, and in which image, channels aside: (*shape)."""
        image, _, row, col = self.map.coordinates(self.index[..., 0])
        return (image * self.map.size[2] + row) * self.map.size[3] + col

    def stencil(self, axes: Sequence[int]) -> "Stencil | None":
        """The one pattern that all rows have, the features being those along `axes`; None if they differ."""
        return _stencil(self.with_last(axes))


def whole(of: Map) -> Form:
    """A map as a form of itself."""
    return Form(of, np.arange(math.prod(of.size)).reshape(*of.size, 1))


def channels_at(of: Map, anchors: Ints) -> Form:
    """All channels of a map at some anchors (rows, 3), image, row and column: a form (rows, channels)."""
    image, row, col = (part[:, None] for part in anchors.T)
    return Form(of, of.flat(image, np.arange(of.size[1]), row, col)[..., None])


@dataclass(frozen=True, eq=False)
class Stencil:
    """A pattern of features, each an affine combination of map elements near an anchor.

    `channel`, `row` and `col` are (features, terms), rows and columns from the anchor on; `weight` likewise, None for
    ones; `offset` (features,), None for zeros. `anchors` is (rows, 3): image, row and column of the map.
    """

    channel: Ints
    row: Ints
    col: Ints
    weight: Floats | None
    offset: Floats | None
    anchors: Ints

    @property
    def pointwise(self) -> bool:
        """Whether everything is at the anchor."""
        return not self.row.any() and not self.col.any()

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns from the first to the last element."""
        return int(self.row.max()) + 1, int(self.col.max()) + 1

    @property
    def is_rectangle(self) -> bool:
        """Whether each element of a rectangle is there, once."""
        height, width = self.extent
        return np.array_equal(np.sort((self.row * width + self.col).ravel()), np.arange(height * width))

    @property
    def mixes(self) -> bool:
        """Whether a feature is anything but one element as it is, at the anchor."""
        plain = self.weight is None and self.offset is None and self.channel.shape[1] == 1
        return not plain or not self.pointwise

    def lattice(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """First position and strides of anchors that are a lattice (images, rows, cols); None if they are none."""
        anchors = self.anchors.reshape(*shape, 3)
        origin = anchors[0, 0, 0]
        beyond = anchors[0, min(1, shape[1] - 1), min(1, shape[2] - 1)] - origin
        steps = np.maximum(beyond[1:], 1)
        indices = np.moveaxis(np.indices(shape), 0, -1)
        if origin[0] or not np.array_equal(anchors, indices * [1, *steps] + origin):
            return None
        return (int(origin[1]), int(origin[2])), (int(steps[0]), int(steps[1]))

    def is_channels(self, count: int) -> bool:
        """Whether the features are the map's channels, each as it is and in their order."""
        return not self.mixes and np.array_equal(self.channel, np.arange(count)[:, None])

    def kernel(self, weights: Floats, channels: int) -> tuple[Floats, list[int]]:
        """A layer's weights (outputs, features) as (outputs, channels, height, width), and the dilations."""
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


def _stencil(rows: Form) -> Stencil | None:
    """The pattern of a form of shape (rows, features)."""
    image, channel, row, col = rows.map.coordinates(rows.index)
    used = np.ones(rows.index.shape, np.bool_) if rows.weight is None else rows.weight != 0
    if not used.any((1, 2)).all():
        return None
    far = max(rows.map.size)
    tops, lefts = (np.where(used, along, far).min((1, 2)) for along in (row, col))
    images = np.where(used, image, far).min((1, 2))
    pattern = [image - images[:, None, None], channel, row - tops[:, None, None], col - lefts[:, None, None]]
    images_apart, *places = (np.where(used, part, 0) for part in pattern)
    alike = [*places, *(part for part in (rows.weight, rows.offset) if part is not None)]
    if images_apart.any() or not all((part == part[:1]).all() for part in alike):
        return None
    return Stencil(
        channel=places[0][0],
        row=places[1][0],
        col=places[2][0],
        weight=None if rows.weight is None else rows.weight[0],
        offset=None if rows.offset is None else rows.offset[0],
        anchors=np.stack([images, tops, lefts], -1),
    )
