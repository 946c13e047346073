"""Areas of an image as GeoJSON, as QuPath exports annotations: polygons in pixels of the image.

Read are a geometry, a feature, a collection of either, or a list of features; of these only polygons. The name of an
area is the property `name` of its feature, or else the name of its classification. Polygons of the same name are one
area; polygons without a name select windows too, but have no average of their own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fullconv.common.text import encodable
from fullconv.errors import ImageError
from fullconv.protos import scoring_pb2

SUFFIXES = (".geojson", ".json")
"""Suffixes of files of areas."""
MAX_BYTES = 256 << 20
"""Size of the largest file."""
WAY_OUT = "export areas, not lines or points"


def is_areas(mask: object) -> bool:
    """Return whether a mask is given as areas: a GeoJSON file or document, or a geometry of another library."""
    if isinstance(mask, (str, Path)):
        return Path(mask).suffix.lower() in SUFFIXES
    return isinstance(mask, dict) or hasattr(mask, "__geo_interface__")


def areas_message(mask: Any) -> scoring_pb2.Areas:  # noqa: ANN401 (whatever the caller gives)
    """Make the message of areas; raises ImageError for a file that cannot be read, or for other geometries."""
    if isinstance(mask, (str, Path)):
        document = _read(Path(mask))
    else:
        document = mask if isinstance(mask, dict) else mask.__geo_interface__
    try:
        return scoring_pb2.Areas(polygons=_polygons(document, "", "mask"))
    except RecursionError:
        raise ImageError("mask: expected GeoJSON, got features inside features") from None


def _read(path: Path) -> Any:  # noqa: ANN401 (JSON)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"mask: {path}: expected at most {MAX_BYTES >> 20} MiB of GeoJSON, got more")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ImageError(f"mask: {path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ImageError(f"mask: {path}: expected GeoJSON, got a file that is damaged or of another format") from None


def _polygons(document: Any, name: str, place: str) -> Iterator[scoring_pb2.Polygon]:  # noqa: ANN401 (JSON)
    """Yield the polygons of a document; `place` names it in errors. Raises ImageError."""
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
            raise ImageError(f"{place}: expected a Polygon or a MultiPolygon, got {got}: {WAY_OUT}")


def _each(documents: list[Any], name: str, place: str, what: str) -> Iterator[scoring_pb2.Polygon]:
    for number, document in enumerate(documents, 1):
        if isinstance(document, list):
            raise ImageError(f"{place}: {what} {number}: expected an object, got a list")
        yield from _polygons(document, name, f"{place}: {what} {number}")


def _listed(document: dict[str, Any], key: str, place: str) -> list[Any]:
    """Return a list, or the tuple of another library, in a document; raises ImageError for anything else."""
    value = document.get(key)
    if not isinstance(value, (list, tuple)):
        raise ImageError(f"{place}: {key}: expected a list, got {type(value).__name__}")
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
        raise ImageError(f"{place}: coordinates: expected rings of points [x, y], got something else") from None
    return message
