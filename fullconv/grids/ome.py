"""An OME-Zarr image of a grid (OME-NGFF 0.5), for viewers that lay it over the slide: napari, QuPath and others.

The axes are class, row and column, as OME-NGFF orders them. The transformation gives the place of each window's centre
in micrometres; 0 is the centre of the image's first pixel.
"""

from typing import Any

import numpy as np

from fullconv.common.probabilities import RAW
from fullconv.grid import GridRows, WindowAxis
from fullconv.grids.cells import CellValues

NAME, ARRAY = "ome", "0"
"""Names of the group in the folder of the grid, and of the array in it."""
WHITE = "#ffffff"
"""The colour of classes without a colour."""
CHUNK = 256
"""Largest size of a chunk along rows and columns."""


class OmeImage:
    """The values of all classes of a file, as an image with a channel for each class."""

    def __init__(self, parent: Any, values: CellValues, dtype: np.dtype[Any]) -> None:  # noqa: ANN401 (of an extra)
        header = values.chosen_header
        down, across = header.vertical, header.horizontal
        group = parent.create_group(NAME)
        omero = {} if values.kind == RAW else {"omero": _omero(values)}
        group.attrs["ome"] = {"version": "0.5", "multiscales": [_multiscale(values)], **omero}
        self._values = values
        self._array = group.create_array(
            ARRAY,
            shape=(len(header.indices), down.count, across.count),
            chunks=(1, min(down.count, CHUNK), min(across.count, CHUNK)),
            dtype=dtype,
            fill_value=np.nan,
            dimension_names=["c", "y", "x"],
        )

    def write(self, rows: GridRows) -> None:
        """Write rows of the grid."""
        part = self._values.of_all(rows)
        self._array[:, rows.first : rows.first + len(part)] = np.moveaxis(part, -1, 0)


def has_ome_image(values: CellValues) -> bool:
    """Return whether a grid becomes an image too: if the size of pixels and the values of all classes are known."""
    return values.header.image.microns_per_pixel is not None and not values.ranks


def _multiscale(values: CellValues) -> dict[str, Any]:
    """Return the description of the image; has_ome_image is true."""
    header, microns = values.header, values.header.image.microns_per_pixel
    assert microns is not None  # noqa: S101
    axes = (header.vertical, microns[1]), (header.horizontal, microns[0])
    scale = [1.0, *(axis.stride * axis.scale * size for axis, size in axes)]
    translation = [0.0, *(_first_centre(axis) * size for axis, size in axes)]
    return {
        "name": header.image.name,
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": [
            {
                "path": ARRAY,
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": translation},
                ],
            }
        ],
    }


def _first_centre(axis: WindowAxis) -> float:
    """Return the centre of the first window, in pixels of the image from the centre of its first pixel."""
    return (axis.origin + axis.window / 2) * axis.scale - 0.5


def _omero(values: CellValues) -> dict[str, Any]:
    """Return the channels of probabilities: the label and the colour of each class. OME-NGFF requires their range."""
    window = {"start": 0, "end": 1, "min": 0, "max": 1}
    channels = [
        {
            "label": label,
            "color": values.colours.get(index, WHITE).removeprefix("#").upper(),
            "active": True,
            "window": window,
        }
        for label, index in zip(values.class_names, values.chosen, strict=True)
    ]
    return {"channels": channels}
