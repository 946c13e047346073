"""The picture: colours over the image, outlines and labels, and beside them the colour bar and the legend."""

import textwrap
import warnings

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from fullconv.heatmap.backdrop import WHITE
from fullconv.heatmap.content import BLACK, Colour, Content
from fullconv.heatmap.labels import LabelledRegion, place_labels
from fullconv.heatmap.layout import LINE, Box, Layout
from fullconv.heatmap.outlines import Line
from fullconv.heatmap.paint import Pixels, Scale

Outline = tuple[Line, bool, Colour, str]
"""A line, whether it encloses a region, its colour, and the region's label."""
POINTS = 72
"""Points in one unit of the layout."""
LABELS = FontProperties(size=12, weight="bold")
TEXT = 10.0
"""Size of the panel's text, in points."""
GAP = 0.05
"""Units between a region and its label."""
LETTERS = 30
"""Largest number of characters in a line of the colour bar's caption."""
EDGE, CAPTION, BAR, BAR_LONGEST = 0.3, 0.75, 0.22, 4.0
"""In units: the distance from the panel's edge, the height of the caption above the bar, the bar's width, and its
largest length."""
COLUMNS = 2
"""Columns of the legend in a panel below the image."""
LEGEND = 3.4
"""Height of a legend of all outlines, in units."""


def draw_figure(layout: Layout, painted: Pixels, lines: list[Outline], content: Content) -> Pixels:
    """Return the picture (height, width, 3): the painted image, the lines over it, in its pixels, and the panel."""
    overlay = draw_lines(layout, lines, content)
    picture = np.full((*overlay.shape[:2], 3), WHITE, np.uint8)
    box = layout.image
    picture[box.top : box.bottom, box.left : box.right] = painted
    touched = overlay[..., 3] > 0
    over = overlay[touched].astype(np.float32)
    opacity = over[:, 3:] / WHITE
    picture[touched] = (picture[touched] * (1 - opacity) + over[:, :3] * opacity).round()
    if not layout.below:
        return picture
    used = np.flatnonzero(touched.any(axis=1))[-1]
    return picture[: max(layout.panel.top, used) + round(EDGE * layout.unit)]


def draw_lines(layout: Layout, lines: list[Outline], content: Content) -> Pixels:
    """Return the lines, their labels and the panel alone: red, green, blue and opacity, (height, width, 4)."""
    drawing = Drawing(layout)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # scripts that matplotlib's font lacks
        drawing.draw(lines, content)
        return drawing.rendered()


class Drawing:
    """A transparent figure with the lines, labels and panel; positions are in pixels, counted from the top."""

    def __init__(self, layout: Layout) -> None:
        """Begin with an empty figure."""
        width, height = layout.size
        self.layout = layout
        half = 0.5 / layout.unit  # of a pixel: matplotlib rounds down
        self.figure = Figure(figsize=(width / layout.unit + half, height / layout.unit + half), facecolor="none")
        self.figure.set_dpi(layout.unit)
        self.canvas = FigureCanvasAgg(self.figure)

    def rendered(self) -> Pixels:
        """Return red, green, blue and opacity (height, width, 4)."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())

    def draw(self, lines: list[Outline], content: Content) -> None:
        """Draw lines in pixels of the image, and the panel."""
        box = self.layout.image
        axes = self.figure.add_axes(self._position(box))
        axes.set_axis_off()
        axes.set_xlim(0, box.width)
        axes.set_ylim(box.height, 0)
        thick = self.layout.line / self.layout.unit * POINTS
        for colour in dict.fromkeys(colour for _, _, colour, _ in lines):
            own = [line for line, _, other, _ in lines if other == colour]
            halo = [withStroke(linewidth=2 * thick, foreground="white")] if colour == BLACK else []
            axes.add_collection(LineCollection(own, colors=[colour], linewidths=thick, path_effects=halo))
        self._label([(line, colour, label) for line, outer, colour, label in lines if outer and label])
        if not self.layout.panel.width:
            return
        if content.scale is not None:
            self._bar(content.scale)
        self._legend(content)

    def _position(self, box: Box) -> tuple[float, float, float, float]:
        width, height = self.layout.size
        return box.left / width, 1 - box.bottom / height, box.width / width, box.height / height

    def _label(self, regions: list[tuple[Line, Colour, str]]) -> None:
        """Write the label of every region beside it, if there is room."""
        sizes = {label: self._size(label) for label in {label for _, _, label in regions}}
        image, (width, height) = self.layout.image, self.layout.size
        wanted = []
        for line, _, label in regions:
            (left, top), (right, bottom) = line.min(axis=0), line.max(axis=0)
            box = Box(*(round(edge) for edge in (left, top, right, bottom))).moved(image.left, image.top)
            wanted.append(LabelledRegion(box, *sizes[label][:2], round(GAP * self.layout.unit)))
        for position, box in place_labels(wanted, image, self.layout.labels).items():
            _, colour, label = regions[position]
            self.figure.text(
                box.left / width, 1 - (box.bottom - sizes[label][2]) / height, label, va="baseline", parse_math=False,
                color=colour, fontproperties=LABELS, path_effects=[withStroke(linewidth=3, foreground="white")],
            )  # fmt: skip

    def _size(self, label: str) -> tuple[int, int, int]:
        """Return the width, height and descent of a label's text."""
        sizes = self.canvas.get_renderer().get_text_width_height_descent(label, LABELS, ismath=False)
        width, height, descent = (int(np.ceil(size)) for size in sizes)
        return width, height, descent

    @property
    def _bar_length(self) -> float:
        """Return the bar's length in units; beside the image it leaves room for a legend of all outlines."""
        panel = self.layout.panel
        return (
            BAR_LONGEST if self.layout.below else min(BAR_LONGEST, panel.height / self.layout.unit - CAPTION - LEGEND)
        )

    def _bar(self, scale: Scale) -> None:
        """Draw the colour bar over white, with its caption above it."""
        panel, unit, below = self.layout.panel, self.layout.unit, self.layout.below
        ramp = scale.ramp().numpy()
        left, top = panel.left + EDGE * unit, panel.top + CAPTION * unit
        across, down = (self._bar_length, BAR) if below else (BAR, self._bar_length)
        box = Box(round(left), round(top), round(left + across * unit), round(top + down * unit))
        axes = self.figure.add_axes(self._position(box))
        axes.tick_params(labelsize=TEXT)
        if below:
            axes.imshow(ramp, extent=(scale.low, scale.high, 0, 1), aspect="auto", interpolation="nearest")
            axes.set_yticks([])
        else:
            upright = ramp.transpose(1, 0, 2)[::-1]
            axes.imshow(upright, extent=(0, 1, scale.low, scale.high), aspect="auto", interpolation="nearest")
            axes.set_xticks([])
            axes.yaxis.tick_right()
        if scale.mark is not None:
            (axes.axvline if below else axes.axhline)(scale.mark, color=BLACK, linewidth=LINE * POINTS)
        width, height = self.layout.size
        caption = "\n".join(textwrap.wrap(scale.label, LETTERS))
        self.figure.text(
            left / width, 1 - (top - GAP * 2 * unit) / height, caption, va="bottom", fontsize=TEXT, parse_math=False
        )

    def _legend(self, content: Content) -> None:
        """Write the legend of the outlines beside or below the bar, in smaller letters if it would not fit."""
        panel, unit, below = self.layout.panel, self.layout.unit, self.layout.below
        width, height = self.layout.size
        bar = 0.0 if content.scale is None else self._bar_length
        left = panel.left + (2 * EDGE + bar + EDGE if below and bar else EDGE) * unit
        top = panel.top + (CAPTION + bar + EDGE if bar and not below else EDGE) * unit
        handles = [Line2D([], [], color=colour, linewidth=3, label=text) for colour, text in content.legend]
        size = TEXT
        for _ in range(2):
            legend = self.figure.legend(
                handles=handles, title=content.title, loc="upper left", ncols=COLUMNS if below else 1, frameon=False,
                bbox_to_anchor=(left / width, 1 - top / height), borderaxespad=0, borderpad=0, fontsize=size,
                title_fontsize=size, alignment="left",
            )  # fmt: skip
            for text in [*legend.get_texts(), legend.get_title()]:
                text.set_parse_math(False)
            drawn = legend.get_window_extent(self.canvas.get_renderer())
            fits = min((panel.right - left) / drawn.width, (panel.bottom - top) / drawn.height)
            if fits >= 1:
                break
            size *= fits * 0.98
            legend.remove()
