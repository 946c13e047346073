"""Areas of an image: polygons in pixels of the image, in which windows are scored, and averaged by name.

A window lies in an area if every point of it does; the outline belongs to the area. Polygons of the same name are one
area, and so are all polygons together for the mask, so that a window may lie across the border of two polygons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.errors import ImageError
from service.images.mask import Spans
from service.images.picture import Picture

if TYPE_CHECKING:
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

MAX_POLYGONS, MAX_POINTS, MAX_NAMED = 10_000, 1_000_000, 256
"""Largest numbers of polygons, of their points, and of different names."""
MAX_PAIRS, BLOCK = 20_000_000, 16
"""Largest number of pairs of lines that lie close together, to which the cost of joining polygons is proportional; and
the number of lines that are compared with all others at once."""
LEAST_POINTS = 4
"""Points of the smallest ring, whose last point is the first one."""
WINDOW_SECONDS = 2e-7
"""Seconds of one CPU in which it is found whether a window lies in an area."""
FARTHEST = 1e9
"""Largest coordinate, in pixels."""

Ring = NDArray[np.float64]
"""Points (points, 2): x and y in pixels of the image; the last point is the first one."""


@dataclass(frozen=True, eq=False)
class RequestedPolygon:
    """A polygon of a request, which may be invalid."""

    name: str
    """Empty: the polygon belongs to no named area."""
    rings: tuple[Ring, ...]
    """The outline, then the outlines of holes."""


@dataclass(frozen=True, eq=False)
class RequestedAreas:
    """The polygons of a request."""

    polygons: tuple[RequestedPolygon, ...]

    @property
    def names(self) -> int:
        """Number of different names."""
        return len({polygon.name for polygon in self.polygons if polygon.name})


@dataclass(frozen=True, eq=False)
class Area:
    """Polygons that are one area; a `Mask`."""

    name: str
    shape: "BaseGeometry"

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Return which windows, (rows, cols), lie in the area."""
        import shapely  # noqa: PLC0415 (only requests with areas need it)

        selected = np.zeros((len(rows[0]), len(cols[0])), np.bool_)
        _, top, _, bottom = self.shape.bounds
        for row in np.flatnonzero((rows[0] >= top) & (rows[1] <= bottom)):
            boxes = shapely.box(cols[0], rows[0][row], cols[1], rows[1][row])
            selected[row] = shapely.covers(self.shape, boxes)
        return selected


@dataclass(frozen=True)
class Areas:
    """The areas of an image."""

    all: Area
    """All polygons together."""
    named: tuple[Area, ...]
    """In the order in which the request names them."""


def make_areas(requested: RequestedAreas, picture: Picture) -> Areas:
    """Check polygons and join them; raises ImageError for polygons that are invalid or beside the image."""
    import shapely  # noqa: PLC0415 (only requests with areas need it)

    _check_numbers(requested)
    for number, polygon in enumerate(requested.polygons, 1):
        _check_rings(_name_of(number, polygon), polygon.rings)
    _check_pairs(requested.polygons)
    shapes = [_polygon(number, polygon) for number, polygon in enumerate(requested.polygons, 1)]
    by_name: dict[str, list[Polygon]] = {}
    for polygon, shape in zip(requested.polygons, shapes, strict=True):
        by_name.setdefault(polygon.name, []).append(shape)
    together = _area("", shapes)
    if not together.shape.intersects(shapely.box(0, 0, picture.width, picture.height)):
        left, top, right, bottom = together.shape.bounds
        raise ImageError(
            f"mask: expected areas inside the image of {picture.width}×{picture.height} (width×height), got x from "
            f"{left:g} to {right:g} and y from {top:g} to {bottom:g}"
        )
    return Areas(together, tuple(_area(name, parts) for name, parts in by_name.items() if name))


def _area(name: str, shapes: Sequence["Polygon"]) -> Area:
    """Join polygons, and prepare the result for many questions."""
    import shapely  # noqa: PLC0415 (only requests with areas need it)

    shape = shapely.union_all(shapes)
    shapely.prepare(shape)
    return Area(name, shape)


def _check_numbers(requested: RequestedAreas) -> None:
    polygons = requested.polygons
    points = sum(len(ring) for polygon in polygons for ring in polygon.rings)
    for what, count, most in (
        ("polygons", len(polygons), MAX_POLYGONS),
        ("points of polygons", points, MAX_POINTS),
        ("names of areas", requested.names, MAX_NAMED),
    ):
        if count > most:
            raise ImageError(
                f"mask: expected at most {most} {what}, got {count}; simplify the polygons, or leave out some"
            )
    if not polygons:
        raise ImageError("mask: expected polygons, got none; leave the mask out to score the whole image")


def _polygon(number: int, polygon: RequestedPolygon) -> "Polygon":
    """Return a polygon; `number` is its position, counted from 1. Raises ImageError if it is invalid."""
    import shapely  # noqa: PLC0415 (only requests with areas need it)

    shape = shapely.Polygon(polygon.rings[0], polygon.rings[1:])
    if not shape.is_valid:
        reason = shapely.is_valid_reason(shape).replace("[", " at x, y ").removesuffix("]")
        what = _name_of(number, polygon)
        raise ImageError(f"{what}: expected an outline that does not cross itself, with holes inside it, got {reason}")
    return shape


def _name_of(number: int, polygon: RequestedPolygon) -> str:
    """Return what names a polygon in errors; `number` is its position, counted from 1."""
    return f"mask: polygon {number}{f' ({polygon.name!r})' if polygon.name else ''}"


def _check_pairs(polygons: Sequence[RequestedPolygon]) -> None:
    """Raise ImageError if so many lines lie close together that joining the polygons would take minutes."""
    import shapely  # noqa: PLC0415 (only requests with areas need it)

    rings = [ring for polygon in polygons for ring in polygon.rings]
    starts, ends = np.concatenate([ring[:-1] for ring in rings]), np.concatenate([ring[1:] for ring in rings])
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
    tree, pairs = shapely.STRtree(boxes), 0
    for first in range(0, len(boxes), BLOCK):
        pairs += tree.query(boxes[first : first + BLOCK]).shape[1]
        if pairs > MAX_PAIRS:
            raise ImageError(
                f"mask: expected at most {MAX_PAIRS} pairs of lines that lie close together, got more; simplify them"
            )


def _check_rings(what: str, rings: Iterable[Ring]) -> None:
    rings = list(rings)
    if not rings:
        raise ImageError(f"{what}: expected an outline, got none")
    for ring in rings:
        if len(ring) < LEAST_POINTS:
            raise ImageError(f"{what}: expected at least {LEAST_POINTS} points in an outline, got {len(ring)}")
        if not (np.abs(ring) <= FARTHEST).all():
            raise ImageError(
                f"{what}: expected coordinates in pixels, at most {FARTHEST:g}, got {np.abs(ring).max():g}"
            )
        if (ring[0] != ring[-1]).any():
            raise ImageError(f"{what}: expected an outline that ends where it begins, got an open line")
