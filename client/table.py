"""An answer for a terminal: one line about the image, then the classes with the highest averages."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from client.answer import AVERAGES, Answer


def table(answer: Answer) -> Group:
    """Lay out one image's answer."""
    response = answer.response
    image, grid, parity = response.image, response.grid, response.parity
    agreement = "exact" if parity.exact else f"differs from crops by up to {parity.max_abs_diff:.2g}"
    head = Text.assemble(
        (image.name, "bold"),
        f"  {image.width}×{image.height}  {response.model}/{response.version}\n",
        f"{grid.rows}×{grid.cols} windows of {grid.window.height}×{grid.window.width}, "
        f"{grid.stride.height} pixels apart; {response.mode}, {agreement}; {response.timing.total_ms / 1e3:.2f} s",
    )
    rows = Table("class", "label", f"average of {AVERAGES[response.average.of]}", box=None, pad_edge=False)
    rows.columns[2].justify = "right"
    for entry in answer.top:
        rows.add_row(str(entry.index), Text(entry.label), f"{entry.score:.4f}")
    return Group(head, "", rows)
