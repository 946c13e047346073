"""The options of `fullconv-score` for the style of heatmaps."""

from collections.abc import Sequence
from typing import Any

import typer

from fullconv.errors import RequestError
from fullconv.style import DEFAULT_STYLE, HeatmapStyle

OPTIONS = {
    "threshold": "--heatmap-threshold",
    "colormap": "--colormap",
    "opacity": "--opacity",
    "legend": "--no-legend",
    "overlay": "--overlay",
    "scale": "--heatmap-scale",
}
"""The option of each field of HeatmapStyle."""


def style_of(names: Sequence[str], **fields: Any) -> HeatmapStyle:
    """Return the style with these fields for heatmaps of these names; exit status 2 if they do not fit."""
    given = [option for field, option in OPTIONS.items() if fields[field] != getattr(DEFAULT_STYLE, field)]
    if given and not names:
        raise typer.BadParameter("expected --heatmap with it, got none", param_hint=given[0])
    try:
        style = HeatmapStyle(**fields)
        style.check_files(names)
    except RequestError as error:
        field, _, reason = str(error).partition(": ")
        raise typer.BadParameter(reason, param_hint=OPTIONS[field]) from None
    return style
