"""The file of a page: the template with the style, the scripts and the data in it.

The page's policy allows images from the page itself and from its folder, and forbids every connection. Data are in
script elements of types that browsers do not execute, in which no text can end the element.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, BinaryIO

from numpy.typing import NDArray

from fullconv.common.pages import page_of
from fullconv.errors import ImageError
from fullconv.page.tiles import Tiles
from fullconv.page.values import Planes

MARK = "<!-- data -->"
"""Stands in the template where the data belong."""


def write_html(file: BinaryIO, document: Mapping[str, Any], planes: Planes, tiles: Tiles | ImageError) -> None:
    """Write the page of a document, its planes and its tiles."""
    answer = document["answer"]
    title = f"{answer['image']['name'] or 'image'} – {answer['model']}/{answer['version']}"
    before, after = _template(title, in_folder=isinstance(tiles, Tiles) and bool(tiles.folder)).split(MARK)
    file.write(before.encode())
    _write_data(file, "document", _json(document))
    _write_data(file, "top", _base64(planes.top))
    _write_data(file, "value", _base64(planes.value))
    for number, plane in enumerate(planes.of):
        _write_data(file, str(number), _base64(plane))
    if isinstance(tiles, Tiles):
        _write_data(file, "tiles", _json(tiles.inside))
    file.write(after.encode())


def _template(title: str, *, in_folder: bool) -> str:
    """Return the page without its data."""
    images = f"img-src data:{' file: ' + chr(39) + 'self' + chr(39) if in_folder else ''}"
    return page_of("page", ["shared"], ["cells", "panel", "page", "result"], title, images)[0]


def _write_data(file: BinaryIO, name: str, text: str) -> None:
    file.write(f'<script type="text/plain" id="data-{name}">{text}</script>\n'.encode())


def _json(document: Mapping[str, Any]) -> str:
    """Return JSON in ASCII that cannot end the element that holds it."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _base64(plane: NDArray[Any]) -> str:
    return b64encode(plane.tobytes()).decode()
