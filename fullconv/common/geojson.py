"""GeoJSON as areas of an image: polygons in pixels of the image.

Read are a geometry, a feature, a collection of either, or a list of features; of these only polygons. The name of an
area is the property `name` of its feature, or else the name of its classification. Polygons of the same name are one
area; polygons without a name select windows too, but have no average of their own.
"""

from collections.abc import Iterator
from typing import Any

from fullconv.common.text import encodable
from fullconv.protos import scoring_pb2

WAY_OUT = "export areas, not lines or points"


class GeoJsonError(ValueError):
    """A document is no GeoJSON, or has other geometries than polygons."""


def areas_of(document: Any) -> scoring_pb2.Areas:  # noqa: ANN401 (JSON)
    """Return the areas of a document as a message; raises GeoJsonError."""
    try:
        return scoring_pb2.Areas(polygons=_polygons(document, "", "mask"))
    except RecursionError:
        raise GeoJsonError("mask: expected GeoJSON, got features inside features") from None


def _polygons(document: Any, name: str, place: str) -> Iterator[scoring_pb2.Polygon]:  # noqa: ANN401 (JSON)
    """Yield the polygons of a document; `place` names it in errors. Raises GeoJsonError."""
    if isinstance(document, list):
        yield from _each(document, name, place, "feature")
        return
    kind = document.get("type") if isinstance(document, dict) else None
    match kind:
        case "FeatureCollection":
            yield from _each(_listed(document, "features", place), name, place, "feature")
        case "Feature":
            yield from _polygons(document.get("geometry"), _name_of(document), place)
        case "GeometryCollection":
            yield from _each(_listed(document, "geometries", place), name, place, "geometry")
        case "Polygon":
            yield _polygon(_listed(document, "coordinates", place), name, place)
        case "MultiPolygon":
            for rings in _listed(document, "coordinates", place):
                yield _polygon(rings, name, place)
        case _:
            got = f"{kind!r}" if isinstance(kind, str) else "no type"
            raise GeoJsonError(f"{place}: expected a Polygon or a MultiPolygon, got {got}; {WAY_OUT}")


def _each(documents: list[Any], name: str, place: str, what: str) -> Iterator[scoring_pb2.Polygon]:
    for number, document in enumerate(documents, 1):
        if isinstance(document, list):
            raise GeoJsonError(f"{place}: {what} {number}: expected an object, got a list")
        yield from _polygons(document, name, f"{place}: {what} {number}")


def _listed(document: dict[str, Any], key: str, place: str) -> list[Any]:
    """Return a list, or the tuple of another library, in a document; raises GeoJsonError for anything else."""
    value = document.get(key)
    if not isinstance(value, (list, tuple)):
        raise GeoJsonError(f"{place}: {key}: expected a list, got {type(value).__name__}")
    return list(value)


def _name_of(feature: dict[str, Any]) -> str:
    """Return the name of a feature, or else of its classification; empty if it has neither."""
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return ""
    classification = properties.get("classification")
    named = classification.get("name") if isinstance(classification, dict) else None
    own = properties.get("name")
    name = own if isinstance(own, str) and own else named
    return encodable(name) if isinstance(name, str) else ""


def _polygon(rings: Any, name: str, place: str) -> scoring_pb2.Polygon:  # noqa: ANN401 (JSON)
    message = scoring_pb2.Polygon(name=name)
    try:
        for ring in rings:
            coordinates = [float(value) for point in ring for value in (point[0], point[1])]
            message.rings.add(coordinates=coordinates)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        raise GeoJsonError(f"{place}: coordinates: expected rings of points [x, y], got something else") from None
    return message
