"""What a raster of classes tells GDAL and QGIS about them: their colours and their names.

A TIFF file holds the colours as its colour map. GDAL keeps the names in a file beside it, OUT.tif.aux.xml.
"""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from fullconv.common.text import printable
from fullconv.grids.cells import CellValues

GREY = "#808080"
"""The colour of classes without a colour, if others have one."""
TO_16_BIT = 257


def colour_map(values: CellValues) -> NDArray[np.uint16] | None:
    """Return the colour map of a TIFF file, (3, 256 or 65,536); None if no class has a colour, or for more classes."""
    bits = values.winner_type.itemsize * 8
    if not any(index in values.colours for index in values.chosen) or bits > 16:
        return None
    colours = np.zeros((3, 1 << bits), np.uint16)
    for position, index in enumerate(values.chosen):
        colour = values.colours.get(index, GREY)
        colours[:, position] = [int(colour[at : at + 2], 16) * TO_16_BIT for at in (1, 3, 5)]
    return colours


def band_names(names: Sequence[str]) -> bytes:
    """Return GDAL's metadata in a TIFF file that names the bands."""
    items = [
        f'<Item name="DESCRIPTION" sample="{band}" role="description">{_escaped(name)}</Item>'
        for band, name in enumerate(names)
    ]
    return f"<GDALMetadata>{''.join(items)}</GDALMetadata>\0".encode()


def category_names(names: Iterable[str]) -> bytes:
    """Return the file beside a raster that names its classes, by the values of the pixels from 0 on."""
    categories = "".join(f"<Category>{_escaped(name)}</Category>" for name in names)
    band = f'<PAMRasterBand band="1"><CategoryNames>{categories}</CategoryNames></PAMRasterBand>'
    return f"<PAMDataset>{band}</PAMDataset>\n".encode()


def _escaped(name: str) -> str:
    return escape(printable(name), quote=False)
