"""The heatmap: the image in grey, and over it for every cell the score of one class, or the class that wins.

One class: the colour is its probability, from 0 to 1, transparent where it is low; a line surrounds the cells at or
above the threshold. Several classes: the colour is the score of the winner; an outline and a label name it, except for
the most common winner, which is not painted. A colour bar and a legend explain both.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from fullconv.blocks import blocks_of
from fullconv.common.files import atomic_write
from fullconv.common.libvips import pyvips
from fullconv.errors import ImageError
from fullconv.grid import GridHeader, ImageInfo, RowSink, Scores
from fullconv.heatmap.backdrop import blank, grey_picture
from fullconv.heatmap.cells import SingleClass, Winners
from fullconv.heatmap.content import Content, single_class_content, winners_content
from fullconv.heatmap.figure import draw_figure
from fullconv.heatmap.layout import layout_of
from fullconv.heatmap.outlines import outlines
from fullconv.heatmap.paint import NOTHING, RGB
from fullconv.images import Region, ScoredPixels
from fullconv.shown import ShownClasses

QUALITY = 90
"""Quality of JPEG and WebP files, 0 to 100."""
MIN_OUTLINE = 5
"""Side of the smallest region with an outline, in widths of a line: the line would cover smaller regions."""


@contextmanager
def heatmap_files(
    paths: Sequence[Path], header: GridHeader, shown: ShownClasses, pixels: ScoredPixels
) -> Iterator[RowSink]:
    """Yield the function that takes the rows of the grid, then draw the heatmap once and write it into each file.

    The paths' suffixes are of `fullconv.common.files.PICTURE_SUFFIXES`. Raises OutputError.
    """
    heatmap = Heatmap(header, shown, pixels.region)
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_write(path)) for path in paths]
        yield lambda rows: heatmap.add_rows(rows.first, rows.scores)
        picture = heatmap.picture(pixels)
        for file, path in zip(files, paths, strict=True):
            file.write(encode_picture(picture, path.suffix))


def write_picture(path: Path, picture: RGB) -> None:
    """Write a picture (height, width, 3) in the format of the path's suffix; raises OutputError."""
    with atomic_write(path) as file:
        file.write(encode_picture(picture, path.suffix))


def encode_picture(picture: RGB, suffix: str) -> bytes:
    """Encode a picture (height, width, 3) in the format of a suffix, in upper or lower case."""
    quality = {} if suffix.lower() == ".png" else {"Q": QUALITY}
    data: bytes = pyvips.Image.new_from_array(picture).write_to_buffer(suffix.lower(), **quality)
    return data


class Heatmap:
    """The score or the winning class of every cell, in the resolution of the picture."""

    def __init__(self, header: GridHeader, shown: ShownClasses, region: Region | None) -> None:
        """Allocate memory in the picture's resolution; `region` was scored. Default: the whole image."""
        self._header = header
        self.region = region or Region(0, 0, header.image.width, header.image.height)
        self.layout = layout_of(self.region.width, self.region.height, labels=shown.single is None)
        self._scale = self.layout.image.width / self.region.width, self.layout.image.height / self.region.height
        down, across = blocks_of(header.vertical, self._scale[1]), blocks_of(header.horizontal, self._scale[0])
        if shown.single is not None:
            (column,) = header.columns([shown.single])
            self.cells: SingleClass | Winners = SingleClass(down, across, column, shown.output.kind)
        else:
            kind = shown.output.kind if shown.probabilities else None
            self.cells = Winners(down, across, header.columns(shown.chosen), kind)
        self.unread = ""
        """The reason why `picture` could not read the image again; empty if it could."""

    def add_rows(self, first: int, scores: Scores) -> None:
        """Take scores (rows, cols, classes) from row `first` on, top to bottom."""
        self.cells.add_rows(first, scores)

    def content(self) -> Content:
        """Return the values, outlines and legend that are drawn over the image."""
        labels = self._header.labels
        if isinstance(self.cells, SingleClass):
            return single_class_content(self.cells, labels[self.cells.column])
        return winners_content(self.cells, [labels[column] for column in self.cells.columns])

    def picture(self, pixels: ScoredPixels) -> RGB:
        """Return the image with the heatmap drawn over it: (height, width, 3)."""
        content = self.content()
        least = (MIN_OUTLINE * self.layout.line) ** 2 / (self._scale[0] * self._scale[1])
        lines = [
            ((line - (self.region.x, self.region.y)) * self._scale, outer, outlined.colour, outlined.label)
            for outlined in content.outlined
            for line, outer in outlines(outlined.mask, self.cells.rows_of, self.cells.cols_of, least)
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # scripts that matplotlib's font lacks
            return draw_figure(self.layout, self._painted(pixels, content), lines, content)

    def _painted(self, pixels: ScoredPixels, content: Content) -> RGB:
        """Return the image, or its region, with the colours over it."""
        box = self.layout.image
        grey = self._backdrop(pixels, self._header.image, (box.width, box.height))
        if content.scale is None:
            return np.repeat(grey[..., None], 3, axis=2)
        x = self.region.x + (np.arange(box.width) + 0.5) / self._scale[0]
        y = self.region.y + (np.arange(box.height) + 0.5) / self._scale[1]
        levels = np.pad(content.scale.levels(content.values), ((0, 1), (0, 1)), constant_values=NOTHING)
        return content.scale.painted(grey, levels[np.ix_(self.cells.rows_of.at(y), self.cells.cols_of.at(x))])

    def _backdrop(self, pixels: ScoredPixels, image: ImageInfo, size: tuple[int, int]) -> np.ndarray:
        """Return the image in grey; a white picture if the image cannot be read again."""
        try:
            grey: np.ndarray = grey_picture(pixels, image, size).numpy()
        except ImageError as error:
            self.unread = str(error)
            grey = blank(size).numpy()
        return grey
