"""The document of a page: everything that the page shows, except the values and the tiles.

The page's script reads this document, and requests two kinds of data by name: planes of values, and tiles. The file
contains all three.

answer       what `--json` prints
picture      the part of the image that is shown (x, y, width, height), its tiles, or why it cannot be shown
grid         where the cells are: along each axis the edges of what is drawn, and first and last pixel of the windows
values       their kind, range and bits; the classes, of which the first `planes` have a plane
colour_maps  the colour maps of assets/colour_maps.json
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fullconv.blocks import blocks_of
from fullconv.common.pages import asset
from fullconv.common.probabilities import RAW
from fullconv.common.text import printable
from fullconv.errors import ImageError
from fullconv.grid import WindowAxis
from fullconv.grids.cells import CellValues
from fullconv.images import Region
from fullconv.page.tiles import Tiles
from fullconv.page.values import Extent, Planes


def document_of(
    values: CellValues, extent: Extent, planes: Planes, picture: Mapping[str, Any], answer: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document; `answer` is what `--json` prints. Text is printable, and numbers are finite or None."""
    header = values.chosen_header
    document = {
        "answer": answer,
        "picture": picture,
        "grid": {
            "step": extent.step,
            "rows": _axis(header.vertical, extent.step),
            "cols": _axis(header.horizontal, extent.step),
        },
        "values": _values(values, extent, planes),
        "colour_maps": json.loads(asset("colour_maps.json")),
    }
    cleaned: dict[str, Any] = _cleaned(document)
    return cleaned


def picture_document(region: Region, tiles: Tiles | ImageError) -> dict[str, Any]:
    """Return the part of the document that describes the image: the shown region and its tiles."""
    if isinstance(tiles, ImageError):
        return {**region._asdict(), "tiles": None, "remark": f"{tiles}; the background is white"}
    return {**region._asdict(), "tiles": tiles.document(), "remark": ""}


def _axis(axis: WindowAxis, step: int) -> dict[str, list[float]]:
    """Return the edges of the blocks of `step` cells, and where the windows of each block start and end."""
    starts, ends = axis.starts, axis.starts + axis.lengths
    last = np.minimum(np.arange(step - 1, axis.count + step - 1, step), axis.count - 1)
    return {
        "edges": blocks_of(axis, math.inf).thinned(step).edges.tolist(),
        "starts": starts[::step].tolist(),
        "ends": ends[last].tolist(),
    }


def _values(values: CellValues, extent: Extent, planes: Planes) -> dict[str, Any]:
    header = values.chosen_header
    classes = [
        {
            "index": header.indices[column],
            "label": header.labels[column],
            "colour": values.colours.get(header.indices[column]),
            "cells": count,
        }
        for column, count in zip(planes.columns, planes.counts, strict=True)
    ]
    return {
        "kind": "score" if values.kind == RAW else "probability",
        "low": planes.low,
        "high": planes.high,
        "bits": extent.bits,
        "top_bits": planes.top.dtype.itemsize * 8,
        "classes": classes,
        "planes": extent.classes,
        "of": len(header.indices),
    }


def _cleaned(value: Any) -> Any:  # noqa: ANN401 (any part of a document)
    """Return a document without control characters and without numbers that JSON does not have."""
    match value:
        case str():
            return printable(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _cleaned(part) for key, part in value.items()}
        case list() | tuple():
            return [_cleaned(part) for part in value]
    return value
