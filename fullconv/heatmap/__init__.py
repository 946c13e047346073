"""The heatmap: the image in grey, and over it for every cell the score of one class, or the class that wins.

One class: the colour is its probability, from 0 to 1, transparent where it is low; a line surrounds the cells at or
above the threshold. Several classes: the colour is the score of the winner; an outline and a label name it, except for
the most common winner, which is not painted. A colour bar and a legend explain both.

A picture has at most 4096 pixels on its longer side. A TIFF file has the size of the image, and no colour bar and
legend.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fullconv.blocks import blocks_of
from fullconv.common.files import TIFF_SUFFIXES, atomic_write
from fullconv.common.libvips import pyvips
from fullconv.common.text import printable
from fullconv.errors import ImageError
from fullconv.grid import GridHeader, GridRows, ImageInfo, RowSink, Scores
from fullconv.heatmap.backdrop import blank, grey_picture
from fullconv.heatmap.cells import THRESHOLD, SingleClass, Winners
from fullconv.heatmap.content import Content, single_class_content, winners_content
from fullconv.heatmap.figure import Outline, draw_figure, draw_lines
from fullconv.heatmap.layout import Layout, layout_of
from fullconv.heatmap.outlines import outlines
from fullconv.heatmap.paint import Pixels, enlarged, laid_over, transparent
from fullconv.heatmap.tiff import Progress, pyramid_pixels, write_tiff
from fullconv.images import Region, ScoredPixels
from fullconv.shown import ShownClasses
from fullconv.style import DEFAULT_STYLE, HeatmapStyle

QUALITY = 90
"""Quality of JPEG and WebP files, 0 to 100."""
MIN_OUTLINE = 5
"""Side of the smallest region with an outline, in widths of a line: the line would cover smaller regions."""


@contextmanager
def heatmap_files(  # noqa: PLR0913 (what is drawn, and two functions that report)
    paths: Sequence[Path],
    header: GridHeader,
    shown: ShownClasses,
    pixels: ScoredPixels,
    style: HeatmapStyle = DEFAULT_STYLE,
    progress: Progress = lambda *_: None,
    *,
    report_unread: Callable[[str], object] = lambda _: None,
) -> Iterator[RowSink]:
    """Yield the function that takes the rows of the grid, then draw the heatmap and write it into each file.

    The paths' suffixes are of `fullconv.common.files.HEATMAP_SUFFIXES`. `progress` is called while a TIFF file is
    written; `report_unread` is called with the reason if the image cannot be read again. Raises OutputError, and what
    `progress` raises.
    """
    heatmaps = {tiff: heatmap_for(header, shown, pixels, style, tiff=tiff) for tiff in set(map(is_tiff, paths))}
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_write(path)) for path in paths]
        yield lambda rows: _add_rows(heatmaps.values(), rows)
        for file, path in zip(files, paths, strict=True):
            heatmaps[is_tiff(path)].write(file, path, progress)
        for reason in sorted({heatmap.unread for heatmap in heatmaps.values() if heatmap.unread}):
            report_unread(reason)


def heatmap_for(
    header: GridHeader, shown: ShownClasses, pixels: ScoredPixels, style: HeatmapStyle, *, tiff: bool
) -> "Heatmap":
    """Return an empty heatmap for pictures, or for TIFF files: of the whole image, without colour bar and legend."""
    if tiff:
        return Heatmap(header, shown, replace(pixels, region=None), replace(style, legend=False))
    return Heatmap(header, shown, pixels, style)


def picture_bytes(path: Path, image: ImageInfo, shown: ShownClasses, pixels: ScoredPixels, style: HeatmapStyle) -> int:
    """Return the bytes of the pixels of a heatmap of an image, before compression; of a TIFF file with all its levels.

    The largest count is that of a picture in colour: libvips stores a grey one with fewer bytes.
    """
    channels = 4 if style.overlay else 3
    if is_tiff(path):
        return channels * pyramid_pixels(_large_size(image, style.scale))
    region = pixels.region or Region(0, 0, image.width, image.height)
    width, height = _layout(region, shown, style).size
    return channels * width * height


def _layout(region: Region, shown: ShownClasses, style: HeatmapStyle) -> Layout:
    legend = style.legend and not style.overlay
    return layout_of(region.width, region.height, labels=shown.single is None, legend=legend)


def _large_size(image: ImageInfo, scale: float) -> tuple[int, int]:
    """Return the width and the height of a TIFF file's picture."""
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _add_rows(heatmaps: Iterable["Heatmap"], rows: GridRows) -> None:
    """Pass rows of the grid to every heatmap."""
    for heatmap in heatmaps:
        heatmap.add_rows(rows.first, rows.scores)


def is_tiff(path: Path) -> bool:
    """Return whether a file is a TIFF file, by its suffix."""
    return path.suffix.lower() in TIFF_SUFFIXES


def encode_picture(picture: Pixels, suffix: str) -> bytes:
    """Encode a picture (height, width, channels) in the format of a suffix, in upper or lower case."""
    quality = {} if suffix.lower() == ".png" else {"Q": QUALITY}
    data: bytes = pyvips.Image.new_from_array(picture).write_to_buffer(suffix.lower(), **quality)
    return data


class Heatmap:
    """The score or the winning class of every cell, in the resolution of a picture of at most 4096 pixels."""

    def __init__(
        self, header: GridHeader, shown: ShownClasses, pixels: ScoredPixels, style: HeatmapStyle = DEFAULT_STYLE
    ) -> None:
        """Allocate memory in the picture's resolution; `pixels` are drawn."""
        self._header, self._pixels, self._style = header, pixels, style
        self._region = pixels.region or Region(0, 0, header.image.width, header.image.height)
        self.layout = _layout(self._region, shown, style)
        drawn = self.layout.image
        self._scale = drawn.width / self._region.width, drawn.height / self._region.height
        down, across = blocks_of(header.vertical, self._scale[1]), blocks_of(header.horizontal, self._scale[0])
        least = style.threshold
        if shown.single is not None:
            (column,) = header.columns([shown.single])
            present = THRESHOLD if least is None else least
            self.cells: SingleClass | Winners = SingleClass(down, across, column, shown.output.kind, present)
        else:
            kind = shown.output.kind if shown.probabilities else None
            present = -np.inf if least is None else least
            self.cells = Winners(down, across, header.columns(shown.chosen), kind, present)
        self.unread = ""
        """The reason why the image could not be read again; empty if it could."""

    def add_rows(self, first: int, scores: Scores) -> None:
        """Take scores (rows, cols, classes) from row `first` on, top to bottom."""
        self.cells.add_rows(first, scores)

    @cached_property
    def picture(self) -> Pixels:
        """The image with the heatmap drawn over it, (height, width, 3), or the colours alone, (height, width, 4)."""
        size = self.layout.image.width, self.layout.image.height
        painted: Pixels = self._painted(size).numpy()
        return painted if self._style.overlay else draw_figure(self.layout, painted, self._lines, self._content)

    def save(self, path: Path) -> None:
        """Draw the heatmap into a file, in the format of its suffix.

        Raises RequestError if the format cannot hold the style, and OutputError.
        """
        self._style.check_files([path])
        with atomic_write(path) as file:
            self.write(file, path)
        self.warn_unread(stacklevel=4)

    def warn_unread(self, stacklevel: int = 3) -> None:
        """Warn the caller's caller if the image could not be read again."""
        if self.unread:
            warnings.warn(f"heatmap: {printable(self.unread)}; the background is white", stacklevel=stacklevel)

    def write(self, file: BinaryIO, path: Path, progress: Progress = lambda *_: None) -> None:
        """Draw the heatmap into an open file, in the format of the path's suffix; raises OutputError.

        `progress` is called while a TIFF file is written.
        """
        if not is_tiff(path):
            file.write(encode_picture(self.picture, path.suffix))
            return
        scale, microns = self._style.scale, self._header.image.microns_per_pixel
        resolution = None if microns is None else (1000 * scale / microns[0], 1000 * scale / microns[1])
        write_tiff(file, path, self._large_picture(scale), resolution, progress)

    def _large_picture(self, scale: float) -> pyvips.Image:
        """Return the picture without colour bar and legend, at the size of the image times the scale."""
        painted = self._painted(_large_size(self._header.image, scale))
        if self._style.overlay or not self._lines:
            return painted
        return laid_over(painted, draw_lines(self.layout, self._lines, self._content))

    @cached_property
    def _content(self) -> Content:
        """The values, outlines and legend that are drawn over the image."""
        labels = self._header.labels
        if isinstance(self.cells, SingleClass):
            return single_class_content(self.cells, labels[self.cells.column], self._style)
        return winners_content(self.cells, [labels[column] for column in self.cells.columns], self._style)

    @cached_property
    def _lines(self) -> list[Outline]:
        """The outlines, in pixels of the picture."""
        least = (MIN_OUTLINE * self.layout.line) ** 2 / (self._scale[0] * self._scale[1])
        return [
            ((line - (self._region.x, self._region.y)) * self._scale, outer, outlined.colour, outlined.label)
            for outlined in self._content.outlined
            for line, outer in outlines(outlined.mask, self.cells.rows_of, self.cells.cols_of, least)
        ]

    def _painted(self, size: tuple[int, int]) -> pyvips.Image:
        """Return the colours over the image or its region, or the colours alone, at (width, height) pixels."""
        scale = self._content.scale
        overlay = self._style.overlay
        if scale is None:
            return transparent(size) if overlay else self._backdrop(size).colourspace("srgb")
        x, y = (
            start + (np.arange(drawn) + 0.5) * length / drawn
            for start, drawn, length in zip(self._region[:2], size, self._region[2:], strict=True)
        )
        levels = enlarged(scale.levels(self._content.values), self.cells.rows_of.at(y), self.cells.cols_of.at(x))
        return scale.overlay(levels) if overlay else scale.painted(self._backdrop(size), levels)

    def _backdrop(self, size: tuple[int, int]) -> pyvips.Image:
        """Return the image in grey; a white picture if the image cannot be read again."""
        try:
            return grey_picture(self._pixels, self._header.image, size)
        except ImageError as error:
            self.unread = str(error)
            return blank(size)
