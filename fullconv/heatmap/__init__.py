"""`--heatmap OUT.png`: the image with, for every cell, what a class scores there, or which class wins.

Of one class the colour is its probability, from 0 to 1, transparent where it is low; a line surrounds what is above
the threshold. Of many classes the colour says how high the winner scores; an outline and a label say which class it is,
wherever it is not the most common winner, which is not painted. A colour bar and a legend explain both.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyvips

from fullconv.common.files import whole_file
from fullconv.grid_file import Rows
from fullconv.heatmap.backdrop import backdrop
from fullconv.heatmap.cells import Values, Winners, blocks_of
from fullconv.heatmap.content import Content, of_class, of_winners
from fullconv.heatmap.figure import drawn
from fullconv.heatmap.layout import layout_of
from fullconv.heatmap.outlines import outlines
from fullconv.heatmap.paint import NOTHING, RGB
from fullconv.protos import scoring_pb2
from fullconv.subject import Subject

QUALITY = 90
"""Of JPEG and WebP, 0 to 100."""
SMALL = 5
"""Widths of a line: smaller regions have no outline, which would cover them."""


@contextmanager
def heatmap_file(
    path: Path,
    image: Path,
    response: scoring_pb2.ScoreResponse,
    subject: Subject,
    options: scoring_pb2.ScoreOptions,
) -> Iterator[Rows]:
    """Collect the rows of all classes of the response, then draw them over the image file, or the region of it.

    The path's suffix is one of `fullconv.common.files.PICTURES`.
    """
    heatmap = Heatmap(response, subject, options)
    suffix = path.suffix.lower()
    quality = {} if suffix == ".png" else {"Q": QUALITY}
    with whole_file(path) as file:
        yield heatmap.rows
        file.write(pyvips.Image.new_from_array(heatmap.picture(image)).write_to_buffer(suffix, **quality))


class Heatmap:
    """What is known of every cell so far, as much as the picture has room for."""

    def __init__(
        self, response: scoring_pb2.ScoreResponse, subject: Subject, options: scoring_pb2.ScoreOptions
    ) -> None:
        """Make room; the response says how many rows there will be."""
        self._response, self._subject, self._options = response, subject, options
        whole = scoring_pb2.Region(width=response.image.width, height=response.image.height)
        self.region = options.region if options.HasField("region") else whole
        self.layout = layout_of(self.region.width, self.region.height, labels=subject.shown is None)
        self._scale = self.layout.image.width / self.region.width, self.layout.image.height / self.region.height
        down, across = blocks_of(response, 0, self._scale[1]), blocks_of(response, 1, self._scale[0])
        if subject.shown is not None:
            (column,) = (n for n, entry in enumerate(response.classes) if entry.index == subject.shown)
            self.cells: Values | Winners = Values(down, across, column, subject.output.kind)
        else:
            kind = subject.output.kind if subject.probabilities else None
            self.cells = Winners(down, across, subject.columns(response), kind)
        self.rows: Rows = self.cells.rows

    def content(self) -> Content:
        """What is drawn."""
        labels = [entry.label for entry in self._response.classes]
        if isinstance(self.cells, Values):
            return of_class(self.cells, labels[self.cells.column])
        return of_winners(self.cells, [labels[column] for column in self.cells.columns])

    def picture(self, image: Path) -> RGB:
        """Draw over an image file: (height, width, 3)."""
        content = self.content()
        least = (SMALL * self.layout.line) ** 2 / (self._scale[0] * self._scale[1])
        lines = [
            ((line - (self.region.x, self.region.y)) * self._scale, outer, one.colour, one.label)
            for one in content.outlined
            for line, outer in outlines(one.mask, self.cells.rows_of, self.cells.cols_of, least)
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # scripts that matplotlib's font lacks
            return drawn(self.layout, self._painted(image, content), lines, content)

    def _painted(self, image: Path, content: Content) -> RGB:
        """The image, or its region, with the colours over it."""
        box = self.layout.image
        grey = backdrop(image, self._options, self._response.image, (box.width, box.height))
        if content.scale is None:
            return np.repeat(grey[..., None], 3, axis=2)
        x = self.region.x + (np.arange(box.width) + 0.5) / self._scale[0]
        y = self.region.y + (np.arange(box.height) + 0.5) / self._scale[1]
        levels = np.pad(content.scale.levels(content.values), ((0, 1), (0, 1)), constant_values=NOTHING)
        return content.scale.painted(grey, levels[np.ix_(self.cells.rows_of.at(y), self.cells.cols_of.at(x))])
