"""An answer for a terminal: one line about the image, then the classes with the highest averages."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from client.answer import AVERAGES, Answer
from client.console import printable
from protos import model_pb2, scoring_pb2


def table(answer: Answer) -> Group:
    """Lay out one image's answer."""
    response = answer.response
    head = Text.assemble(_title(answer), f"; {response.timing.total_ms / 1e3:.2f} s")
    if response.scored_cells != response.grid.rows * response.grid.cols:
        head.append(f"\n{response.scored_cells} windows inside the mask")
    rows = Table("class", "label", f"average of {AVERAGES[response.average.of]}", box=None, pad_edge=False)
    rows.columns[2].justify = "right"
    for entry in answer.top:
        rows.add_row(str(entry.index), Text(entry.label), f"{entry.score:.4f}")
    return Group(head, "", rows)


def plan_table(response: scoring_pb2.ScoreResponse) -> Group:
    """Lay out one image's plan."""
    plan = response.plan
    head = Text.assemble(
        _title(Answer(response)),
        f"\n{response.mode}: {response.mode_reason}; {plan.file}\n"
        f"{plan.multiply_adds:.3g} multiply-adds, at most {plan.bytes / 1e6:.0f} MB beside the model",
    )
    rows = Table("image", "windows", "tiles", "of pixels", "halo", "phases", "multiply-adds", box=None, pad_edge=False)
    for view in plan.views:
        rows.add_row(
            _size(view.image), _size(view.cells), str(view.tiles), _size(view.tile),
            "/".join(map(str, view.halo)), str(view.phases), f"{view.multiply_adds:.3g}",
        )  # fmt: skip
    return Group(head, "", rows)


def _title(answer: Answer) -> Text:
    """The image, the model, the grid, and how far it agrees with crops."""
    response = answer.response
    image, grid, parity = response.image, response.grid, response.parity
    agreement = "exact" if parity.exact else f"differs from crops by up to {parity.max_abs_diff:.2g}"
    left_out = f", {answer.left_out[0]} rows and {answer.left_out[1]} columns of pixels in none"
    return Text.assemble(
        (printable(image.name), "bold"),
        f"  {image.width}×{image.height}  {response.model}/{response.version}\n",
        f"{grid.rows}×{grid.cols} windows of {answer.window[0]}×{answer.window[1]}, {answer.stride[0]} pixels apart"
        f"{left_out if any(answer.left_out) else ''}; "
        f"{response.mode}{', ' + agreement if response.mode == 'dense' else ''}",
    )


def _size(size: model_pb2.Size) -> str:
    return f"{size.height}×{size.width}"
