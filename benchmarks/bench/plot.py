"""The plot of a run: the time of an image against its side, on logarithmic axes, a line for each contender."""

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from bench.measure import CaseRun
from bench.networks import NETWORKS
from fullconv.common.files import atomic_write

COLOURS = [mpl.colormaps["tab20"](number) for number in (*range(0, 20, 2), *range(1, 20, 2))]
MARKERS = "os^vDPX*<>hp"
OURS = "fullconv"
"""Begin of the names of this project's contenders, whose lines are solid and thick."""
REMOTE = ", gRPC"
"""End of the names of contenders over gRPC: their lines are dotted, in the colour of the same contender in-process."""


def draw(runs: Sequence[CaseRun], path: Path, plotted: Collection[str]) -> None:
    """Write the plot of the native strides as PNG, with lines for the contenders whose names are in `plotted`.

    Nothing is written if none of them was measured. Raises OutputError.
    """
    native = [run for run in runs if run.case.divisor == 1 and any(entry.seconds for entry in run.entries)]
    networks = [name for name in NETWORKS if any(run.case.network == name for run in native)]
    if not networks:
        return
    measured = dict.fromkeys(entry.name for run in native for entry in run.entries if entry.seconds)
    names = [name for name in measured if name in plotted]
    columns = min(2, len(networks))
    lines = -(-len(networks) // columns)
    legend = 0.2 * -(-len(names) // columns)
    figure = Figure(figsize=(5.2 * columns, 4 * lines + legend), dpi=110, layout="constrained")
    handles = dict[str, Line2D]()
    for panel, name in zip(figure.subplots(lines, columns, squeeze=False).flat, networks, strict=False):
        handles |= _panel(panel, name, [run for run in native if run.case.network == name], names)
    for panel in figure.axes[len(networks) :]:
        panel.set_visible(False)
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _panel(panel: Axes, network: str, runs: Sequence[CaseRun], names: Sequence[str]) -> dict[str, Line2D]:
    """Draw the lines of one network; returns them by the names of the contenders."""
    drawn = {}
    colours = list(dict.fromkeys(name.removesuffix(REMOTE) for name in names))
    for name in names:
        index = colours.index(name.removesuffix(REMOTE))
        entries = [(run.lattice.side, entry) for run in runs for entry in run.entries if entry.name == name]
        points = {side: median(entry.seconds) for side, entry in entries if entry.seconds}  # ONNX Runtime has several
        if points:
            ours = name.startswith(OURS)
            (drawn[name],) = panel.plot(
                *zip(*sorted(points.items()), strict=True),
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=5,
                linestyle=":" if name.endswith(REMOTE) else "-" if ours else "--",
                linewidth=2 if ours else 1.2,
            )
    sides = sorted({run.lattice.side for run in runs})
    panel.set(xscale="log", yscale="log", title=NETWORKS[network].title)
    panel.set(xlabel="side of the image in pixels", ylabel="seconds for all windows")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(sides, [str(side) for side in sides])
    panel.grid(visible=True, alpha=0.3)
    return drawn
