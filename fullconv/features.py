"""GeoJSON features as QuPath reads them: rectangles in pixels of the image, each with its class."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

BEGIN, BETWEEN, END = b'{"type": "FeatureCollection", "features": [\n', b",\n", b"\n]}\n"

Feature = dict[str, Any]


@contextmanager
def feature_collection(file: BinaryIO) -> Iterator[Callable[[Feature], None]]:
    """Write a collection of features, one on each line; yields the function that takes them."""
    between = b""
    file.write(BEGIN)

    def write(feature: Feature) -> None:
        nonlocal between
        file.write(between + json.dumps(feature, ensure_ascii=False).encode())
        between = BETWEEN

    yield write
    file.write(END)


def rectangle(left: float, right: float, top: float, bottom: float) -> Feature:
    """Return a polygon whose ring ends where it begins."""
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def classification(label: str, colour: str | None) -> Feature:
    """Return a class with its name and, if it has one, its colour "#rrggbb"."""
    name = {"name": label}
    return name if not colour else name | {"color": [int(colour[at : at + 2], 16) for at in (1, 3, 5)]}
