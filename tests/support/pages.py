"""Pages of invented results, and pages of results read as a browser reads them."""

import json
from base64 import b64decode
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray
from support.heatmaps import axis, header

from fullconv.common.probabilities import PROBABILITIES
from fullconv.grid import GridHeader, GridRows
from fullconv.grids.cells import CellValues
from fullconv.images import ArraySource, ScoredPixels
from fullconv.page import page_file

ANSWER = {"image": {"name": "i"}, "model": "m", "version": "1"}
"""A document of `--json`, as far as writing a page needs it."""
TYPES: dict[int, Any] = {8: "<u1", 16: "<u2", 32: "<u4"}


@dataclass
class Element:
    """An element of a page, and the text in it."""

    name: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """The elements of a page."""

    html: str
    elements: list[Element] = field(default_factory=list)
    _is_open: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Parse the page."""
        super().__init__()
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add an element."""
        self.elements.append(Element(tag, dict(attrs)))
        self._is_open = True

    def handle_endtag(self, _tag: str) -> None:
        """End the text of the last element."""
        self._is_open = False

    def handle_data(self, data: str) -> None:
        """Add text to the last element."""
        if self._is_open:
            self.elements[-1].text += data

    def named(self, name: str) -> list[Element]:
        """Return the elements of a kind."""
        return [element for element in self.elements if element.name == name]

    def data(self, name: str) -> str:
        """Return data that the page carries."""
        (element,) = (each for each in self.elements if each.attributes.get("id") == f"data-{name}")
        return element.text

    @property
    def document(self) -> dict[str, Any]:
        """The document of the page."""
        document: dict[str, Any] = json.loads(self.data("document"))
        return document

    @property
    def tiles(self) -> dict[str, str]:
        """The tiles inside the page."""
        tiles: dict[str, str] = json.loads(self.data("tiles"))
        return tiles

    @property
    def top(self) -> NDArray[np.unsignedinteger]:
        """The top class of each cell, as a position in the document's classes, (rows, cols)."""
        return self._plane("top", self.document["values"]["top_bits"])

    def values(self, name: str | int = "value") -> NDArray[np.float64]:
        """Return the values of a class, or of the top class of each cell, (rows, cols)."""
        values = self.document["values"]
        stored = self._plane(str(name), values["bits"])
        numbers: NDArray[np.float64] = (values["high"] - values["low"]) * stored / (2 ** values["bits"] - 1)
        return numbers + float(values["low"])

    def _plane(self, name: str, bits: int) -> NDArray[np.unsignedinteger]:
        grid = self.document["grid"]
        plane: NDArray[np.unsignedinteger] = np.frombuffer(b64decode(self.data(name)), TYPES[bits])
        return plane.reshape(len(grid["rows"]["starts"]), len(grid["cols"]["starts"]))


def read_page(path: Path) -> Page:
    """Read a page from a file."""
    return Page(path.read_text("utf-8"))


def write_page(
    folder: Path,
    scores: NDArray[np.floating],
    *,
    kind: str = PROBABILITIES,
    labels: list[str] | None = None,
    pixels: ScoredPixels | None = None,
    known: GridHeader | None = None,
    answer: dict[str, Any] | None = None,
) -> Page:
    """Write the page of scores (rows, cols, classes) over a white image, three rows at a time; returns the page."""
    rows, cols, classes = scores.shape
    known = known or header(axis(rows), axis(cols), labels or [str(number) for number in range(classes)])
    white = np.full((known.image.height, known.image.width), 255, np.uint8)
    path = folder / "page.html"
    values = CellValues(known, kind, known.indices, image=pixels or ScoredPixels(ArraySource(white)))
    with page_file(path, values, lambda: answer or ANSWER) as take:
        for row in range(0, rows, 3):
            take(GridRows(row, scores[row : row + 3].astype(np.float32)))
    return read_page(path)


def joined_tiles(page: Page, folder: Path) -> NDArray[np.uint8]:
    """Return the pixels of a page's tiles of full resolution, (height, width, bands)."""
    known = page.document["picture"]["tiles"]
    level = int(np.ceil(np.log2(max(known["width"], known["height"]))))

    def read(x: int, y: int) -> pyvips.Image:
        name = f"{level}/{x}_{y}"
        if known["folder"]:
            return pyvips.Image.new_from_buffer((folder / known["folder"] / f"{name}.jpg").read_bytes(), "")
        return pyvips.Image.new_from_buffer(b64decode(page.tiles[name].partition(",")[2]), "")

    columns, rows = (-(-known[side] // known["size"]) for side in ("width", "height"))
    joined = np.zeros((known["height"], known["width"], read(0, 0).bands), np.uint8)
    for x in range(columns):
        for y in range(rows):
            left, top = max(0, x * known["size"] - known["overlap"]), max(0, y * known["size"] - known["overlap"])
            tile = np.atleast_3d(read(x, y).numpy())
            joined[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return joined
