"""GeoJSON features as text, as QuPath reads them: polygons, each with a class and measurements."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Literal

BEGIN, BETWEEN, END = '{"type": "FeatureCollection", ', b",\n", b"\n]}\n"

Ring = Sequence[str]
"""The corners of a polygon in JSON; the last is the first."""


@contextmanager
def feature_collection(file: BinaryIO, crs: str | None = None) -> Iterator[Callable[[str], None]]:
    """Write a collection of features, one on each line; yields the function that takes them.

    `crs` is the name of the coordinate system, an URN. RFC 7946 has no such member, but GDAL and QGIS read it.
    """
    between = b""
    member = f'"crs": {json.dumps({"type": "name", "properties": {"name": crs}})}, ' if crs else ""
    file.write(f'{BEGIN}{member}"features": [\n'.encode())

    def write(text: str) -> None:
        nonlocal between
        file.write(between + text.encode())
        between = BETWEEN

    yield write
    file.write(END)


def feature(
    kind: Literal["annotation", "detection", "tile"], rings: Iterable[Ring], classification: str, measurements: str
) -> str:
    """Return a polygon: its outer ring, then its holes. `classification` and `measurements` are objects in JSON."""
    polygon = ", ".join([f"[{', '.join(ring)}]" for ring in rings])
    return (
        f'{{"type": "Feature", "geometry": {{"type": "Polygon", "coordinates": [{polygon}]}}, "properties": '
        f'{{"objectType": "{kind}", "classification": {classification}, "measurements": {measurements}}}}}'
    )


def rectangle(left: float, right: float, top: float, bottom: float) -> Ring:
    """Return the ring of a rectangle."""
    corners = (left, top), (right, top), (right, bottom), (left, bottom), (left, top)
    return [f"[{x}, {y}]" for x, y in corners]


def classification(label: str, colour: str | None) -> str:
    """Return a class in JSON with its name and, if it has one, its colour "#rrggbb"."""
    name = {"name": label}
    known = name if not colour else name | {"color": [int(colour[at : at + 2], 16) for at in (1, 3, 5)]}
    return json.dumps(known, ensure_ascii=False)
