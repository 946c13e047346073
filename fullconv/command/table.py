"""An answer for a terminal: one line about the image, then the classes with the highest averages."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fullconv.answer import AVERAGES, Answer
from fullconv.command.console import printable
from fullconv.common.certificate import LEAST_AGREEMENT, agreement
from fullconv.protos import model_pb2, scoring_pb2


def table(answer: Answer) -> Group:
    """Lay out one image's answer."""
    response = answer.response
    head = Text.assemble(_title(answer), f"; {response.timing.total_ms / 1e3:.2f} s")
    _count_masked(head, response)
    rows = Table("class", "label", f"average of {AVERAGES[response.average.of]}", box=None, pad_edge=False)
    rows.columns[2].justify = "right"
    for entry in answer.top:
        rows.add_row(str(entry.index), Text(entry.label), f"{entry.score:.4f}")
    return Group(head, *_warnings(response), "", rows)


def plan_table(response: scoring_pb2.ScoreResponse) -> Group:
    """Lay out one image's plan."""
    plan = response.plan
    head = Text.assemble(
        _title(Answer(response)),
        f"\n{response.mode}: {response.mode_reason}; {plan.file}\n"
        f"{plan.multiply_adds:.3g} multiply-adds, at most {plan.bytes / 1e6:.0f} MB beside the model",
    )
    _count_masked(head, response)
    rows = Table(
        "height×width", "windows", "tiles", "of pixels", "halo", "phases", "multiply-adds", box=None, pad_edge=False
    )
    for view in plan.views:
        rows.add_row(
            _size(view.image), _size(view.cells), str(view.tiles), _size(view.tile),
            "/".join(map(str, view.halo)), str(view.phases), f"{view.multiply_adds:.3g}",
        )  # fmt: skip
    return Group(head, *_warnings(response), "", rows)


def _count_masked(head: Text, response: scoring_pb2.ScoreResponse) -> None:
    """Add how many windows are scored, if a mask leaves out some."""
    if 0 < response.scored_cells < response.grid.rows * response.grid.cols:
        head.append(f"\n{response.scored_cells} windows inside the mask")


def _title(answer: Answer) -> Text:
    """The image, the model, the grid, and how far it agrees with crops."""
    response = answer.response
    image, grid = response.image, response.grid
    down, across = answer.left_out
    left_out = f"; {down} rows and {across} columns of pixels at the bottom and right belong to no window"
    return Text.assemble(
        (printable(image.name), "bold"),
        f"  {image.width}×{image.height} (width×height)  {response.model}/{response.version}\n",
        f"{grid.rows}×{grid.cols} windows (rows×columns) of {answer.window[0]}×{answer.window[1]} pixels "
        f"(height×width), {answer.stride[0]} apart{left_out if any(answer.left_out) else ''}; "
        f"{response.mode}{', ' + _parity(response.parity) if response.mode == 'dense' else ''}",
    )


def _parity(parity: scoring_pb2.ParityInfo) -> str:
    """How far dense agrees with crops; what the warnings say is not said twice."""
    if parity.exact:
        return "exact"
    if not parity.windows:  # an older server
        return f"differs from crops by {parity.max_abs_diff:.2g} (largest seen)"
    if parity.agreement_high and parity.top_class_agreement >= LEAST_AGREEMENT:
        return f"the classifier's own top class on {agreement(parity)}"
    return "not exact"


def _warnings(response: scoring_pb2.ScoreResponse) -> list[Text]:
    return [Text(f"warning: {printable(warning)}", style="yellow") for warning in response.warnings]


def _size(size: model_pb2.Size) -> str:
    return f"{size.height}×{size.width}"
