"""`--heatmap OUT.png`: the image with, for every cell, the score of the class that wins there.

Colour says how high the winner scores; an outline and a label say which class it is, wherever it is not the most
common winner; a colour bar and a legend explain both.
"""

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyvips
from contourpy import LineType, contour_generator
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from client.answer import Answer, Scores
from client.files import whole_file
from client.grid import Rows
from client.images import open_array
from protos import scoring_pb2

LABEL_LETTERS = 24
LONGEST, SHORTEST = 4096, 1200
"""Pixels of the picture's long side; small images are enlarged to the lesser."""
DPI = 100
PANEL = 2.6
"""Inches beside the image, for the colour bar and the legend."""
OUTLINE_CELLS = 1024
"""Cells along the longer side of the map that outlines are drawn on."""
SPECK = 3.0, 1e-3
"""Regions smaller than so many cells and than that share of the map are not outlined, only counted."""
COLOURS = "viridis"
OPACITY = 0.35, 0.7
"""Of the most common winner's cells, which is mostly what is not looked for, and of all others."""
Colour = tuple[float, float, float, float]
OUTLINES: list[Colour] = [colormaps["tab10"](index) for index in range(10)]
NOBODY = -1
INVISIBLE: Colour = (0.0, 0.0, 0.0, 0.0)
HALO = [withStroke(linewidth=3, foreground="white")]


@contextmanager
def heatmap_file(path: Path, image: Path, response: scoring_pb2.ScoreResponse) -> Iterator[Rows]:
    """Collect rows, then draw them over the image file into a PNG."""
    winners = Winners(response)
    with whole_file(path) as file:
        yield winners.rows
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # scripts that matplotlib's font lacks
            winners.figure(image).savefig(file, format="png", dpi=DPI)


@dataclass
class Winners:
    """The winner of every cell, NOBODY where none was scored, and its score."""

    response: scoring_pb2.ScoreResponse
    winner: NDArray[np.int32] = field(init=False)
    score: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        """Make room for one class and one score a cell."""
        shape = (self.response.grid.rows, self.response.grid.cols)
        self.winner = np.zeros(shape, np.int32)
        self.score = np.zeros(shape, np.float32)

    def rows(self, first: int, scores: Scores) -> None:
        """Take scores (rows, cols, classes), top to bottom."""
        band = slice(first, first + len(scores))
        self.score[band] = scores.max(axis=-1)
        self.winner[band] = np.where(np.isnan(self.score[band]), NOBODY, scores.argmax(axis=-1))

    def figure(self, image: Path) -> Figure:
        """Draw the cells over an image file, with a panel beside them that explains the colours."""
        size = self.response.image
        longest = max(size.width, size.height)
        inches = min(max(longest, SHORTEST), LONGEST - PANEL * DPI) / longest / DPI
        width, height = size.width * inches, max(size.height * inches, 4.0)
        figure = Figure(figsize=(width + PANEL, height), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, width / (width + PANEL), 1))
        axes.set_axis_off()
        axes.imshow(_greyed(image, int(max(width, height) * DPI)), extent=(0, size.width, size.height, 0))
        counts = np.bincount(self.winner[self.winner != NOBODY], minlength=len(self.response.classes))
        alpha = np.where(self.winner == counts.argmax(), *OPACITY) * (self.winner != NOBODY)
        for rows, top, bottom in self._parts(0):
            for cols, left, right in self._parts(1):
                overlay = axes.imshow(
                    self.score[rows, cols],
                    cmap=COLOURS,
                    alpha=alpha[rows, cols],
                    extent=(left, right, bottom, top),
                    interpolation="nearest",
                    vmin=float(np.nanmin(self.score)),
                    vmax=float(np.nanmax(self.score)),
                )
        handles = self._outlines(axes, counts)
        axes.set_xlim(0, size.width)
        axes.set_ylim(size.height, 0)
        left = (width + 0.3) / (width + PANEL)
        bar = figure.add_axes((left, 0.55, 0.22 / (width + PANEL), 0.38))
        figure.colorbar(overlay, cax=bar, label="score of the winning class")
        legend = figure.legend(
            handles=handles,
            title="winning class (cells)",
            loc="upper left",
            bbox_to_anchor=(left - 0.005, 0.5),
            frameon=False,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        return figure

    def _parts(self, axis: int) -> list[tuple[slice, float, float]]:
        """Cells along an axis that lie as far apart as the grid says, and where their blocks begin and end.

        Each cell is drawn as a block of one stride around its window's centre. A last one that is flush with the
        image's edge is nearer to the one before: it is a part by itself, from where that one's block ends.
        """
        answer = Answer(self.response)
        starts, window, stride = (answer.y, answer.x)[axis], answer.window[axis], answer.stride[axis]
        margin = (window - stride) / 2
        begin, end = float(starts[0] + margin), float(starts[-1] + margin + stride)
        count = len(starts)
        if self._anchored[axis] and count > 1:
            between = float(starts[-2] + margin + stride)
            return [(slice(0, count - 1), begin, between), (slice(count - 1, count), between, end)]
        return [(slice(0, count), begin, end)]

    @property
    def _anchored(self) -> tuple[bool, bool]:
        """Whether the last row, and the last column, are flush with the image's edge and off the lattice."""
        grid = self.response.grid
        return (
            grid.last_y != grid.origin_y + (grid.rows - 1) * grid.stride.height,
            grid.last_x != grid.origin_x + (grid.cols - 1) * grid.stride.width,
        )

    def _extent(self) -> tuple[float, float, float, float]:
        """Where the cells on the lattice are drawn: left, right, bottom, top."""
        (_, top, bottom), (_, left, right) = self._parts(0)[0], self._parts(1)[0]
        return left, right, bottom, top

    def _outlines(self, axes: Axes, counts: NDArray[np.intp]) -> list[Line2D]:
        """Outline the regions of the most frequent winners but the first; return the legend's entries."""
        order = [int(position) for position in np.argsort(-counts, kind="stable") if counts[position]]
        shown, others = order[: len(OUTLINES) + 1], order[len(OUTLINES) + 1 :]
        handles = []
        for position, colour in zip(shown, [INVISIBLE, *OUTLINES], strict=False):
            label = textwrap.shorten(self.response.classes[position].label, LABEL_LETTERS, placeholder="…")
            if colour != INVISIBLE:
                _outline(axes, self._mask(position), self._extent(), label, colour)
            handles.append(Line2D([], [], color=colour, linewidth=3, label=f"{label}  ({counts[position]})"))
        if others:
            handles.append(Line2D([], [], color=INVISIBLE, label=f"{len(others)} others  ({counts[others].sum()})"))
        return handles

    def _mask(self, position: int) -> NDArray[np.float32]:
        """Where a class wins, with a margin in which it does not, thinned out if the grid is fine."""
        regular = self.winner[self._parts(0)[0][0], self._parts(1)[0][0]]
        step = -(-max(regular.shape) // OUTLINE_CELLS)
        return np.pad((regular[::step, ::step] == position).astype(np.float32), 1)


def _outline(
    axes: Axes, mask: NDArray[np.float32], extent: tuple[float, float, float, float], label: str, colour: Colour
) -> None:
    """Draw a line around every region of the mask, and the label above it."""
    left, right, bottom, top = extent
    width, height = (right - left) / (mask.shape[1] - 2), (bottom - top) / (mask.shape[0] - 2)
    x = left + width * (np.arange(mask.shape[1]) - 0.5)
    y = top + height * (np.arange(mask.shape[0]) - 0.5)
    least = min(SPECK[0], SPECK[1] * mask.size) * width * height
    lines = contour_generator(x, y, mask, line_type=LineType.Separate).lines(0.5)
    for line in cast("list[NDArray[np.float64]]", lines):
        if _area(line) < least:
            continue
        axes.plot(line[:, 0], line[:, 1], color=colour, linewidth=2)
        where = (line[:, 0].mean(), line[:, 1].min())
        axes.annotate(
            label, where, (0, 3), textcoords="offset points", ha="center", va="bottom", parse_math=False,
            color=colour, fontsize=13, fontweight="bold", path_effects=HALO, annotation_clip=True,
        )  # fmt: skip


def _area(line: NDArray[np.float64]) -> float:
    """What a closed line (points, 2) encloses, by the shoelace formula."""
    x, y = line.T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def _greyed(image: Path, longest: int) -> NDArray[np.uint8]:
    """The image as a grey picture of at most so many pixels on its long side, for the colours to stand out on."""
    pixels = open_array(image)
    if pixels is not None:
        step = -(-max(pixels.shape[:2]) // longest)
        thumbnail = np.asarray(pixels[::step])[:, ::step]
        picture = pyvips.Image.new_from_array(np.ascontiguousarray(thumbnail, thumbnail.dtype.newbyteorder("=")))
        picture = picture.copy(interpretation="rgb16" if picture.format == "ushort" else "srgb")
    else:
        try:
            with image.open("rb") as file:
                source = pyvips.Source.new_from_descriptor(file.fileno())
            picture = pyvips.Image.thumbnail_source(source, longest, height=longest, size="down", export_profile="srgb")
        except pyvips.Error:  # a slide or raster that libvips does not read
            return np.full((1, 1, 3), 255, np.uint8)
    picture = picture.flatten(background=255) if picture.hasalpha() else picture
    grey: NDArray[np.uint8] = picture.colourspace("b-w").cast("uchar").numpy()
    return np.repeat(grey.reshape(*grey.shape[:2], -1)[..., :1], 3, axis=2)
