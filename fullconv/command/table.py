"""An answer for a terminal: some lines about the image, then the classes with the highest averages."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fullconv.answer import Answer
from fullconv.common.certificate import LEAST_AGREEMENT, share_of_windows
from fullconv.common.model_files import CUT_NAME
from fullconv.common.text import apart, counted, printable
from fullconv.description import Parity


def answer_table(answer: Answer) -> Group:
    """Lay out the answer for an image."""
    head = Text.assemble(_title(answer), f"; {answer.timing.total_ms / 1e3:.2f} s", _masked(answer))
    rows = Table("class", "label", f"average of {answer.average_of}", box=None, pad_edge=False)
    rows.columns[2].justify = "right"
    for entry in answer.top:
        rows.add_row(str(entry.index), Text(printable(entry.label)), f"{entry.score:.4f}")
    return Group(head, *_warnings(answer), "", rows, *_areas(answer))


def _areas(answer: Answer) -> list[Text | Table]:
    """Lay out the class with the highest average in each named area of the mask."""
    if not answer.areas:
        return []
    rows = Table("area", "windows", "label", f"average of {answer.average_of}", box=None, pad_edge=False)
    for area in answer.areas:
        best = [(printable(entry.label), f"{entry.score:.4f}") for entry in area.top[:1]] or [("", "")]
        rows.add_row(Text(printable(area.name)), str(area.windows), *map(Text, best[0]))
    return [Text(), rows]


def plan_table(answer: Answer, document: Mapping[str, Any]) -> Group:
    """Lay out the plan for an image. `document` is the plan in its document: with the predicted time, and files."""
    plan, seconds = answer.plan, document["predicted_seconds"]
    time = "time not known" if seconds is None else f"about {seconds:.2g} s with the network here"
    head = Text.assemble(
        _title(answer),
        f"\n{answer.mode}: {printable(answer.mode_reason)}; {printable(plan.file)}\n"
        f"{plan.multiply_adds:.3g} multiply-adds, at most {plan.bytes / 1e6:.0f} MB beside the model, "
        f"about {plan.decode_seconds:.2g} s of decoding; {time}",
        *(f"\n{printable(each['path'])}: {_file_size(each['bytes'])}" for each in document["outputs"]),
        _masked(answer),
    )
    rows = Table(
        "height×width", "windows", "tiles", "of pixels", "halo", "phases", "multiply-adds", box=None, pad_edge=False
    )
    for view in plan.views:
        rows.add_row(
            _size(view.image), _size(view.cells), str(view.tiles), _size(view.tile),
            "/".join(map(str, view.halo)), str(view.phases), f"{view.multiply_adds:.3g}",
        )  # fmt: skip
    return Group(head, *_warnings(answer), "", rows)


def _file_size(size: int | None) -> str:
    return "its size is known only after scoring" if size is None else f"{size / 1e6:.3g} MB before compression"


def _masked(answer: Answer) -> str:
    """Return a line with the number of windows that are scored, if a mask leaves out some."""
    if 0 < answer.scored < len(answer.y) * len(answer.x):
        return f"\n{counted(answer.scored, 'window')} inside the mask"
    return ""


def _title(answer: Answer) -> Text:
    """Return lines about the image, the model, the windows, and the agreement of dense with crops."""
    image = answer.image
    down, across = answer.left_out
    outside = f"{counted(down, 'row')} and {counted(across, 'column')} of pixels"
    left_out = f"; {outside} at the bottom and right belong to no window"
    return Text.assemble(
        (printable(image.name), "bold"),
        f"  {image.width}×{image.height} (width×height)  {printable(answer.model)}/{answer.version}\n",
        f"{len(answer.y)}×{len(answer.x)} windows (rows×columns) of {_size(answer.window)} pixels "
        f"(height×width), {apart(answer.stride)}{left_out if any(answer.left_out) else ''}; {_mode(answer)}"
        f"{_computed(answer)}",
    )


def _mode(answer: Answer) -> str:
    """Return the mode and, if its scores may not be the classifier's own, their agreement."""
    if answer.mode == "dense":
        return f"dense, {_parity(answer.parity)}"
    if CUT_NAME.fullmatch(answer.plan.file):
        return f"{answer.mode} with margins cut off, {_parity(answer.parity)}"
    return answer.mode


def _computed(answer: Answer) -> str:
    """Return the runtime and the precision, unless they are ONNX Runtime on the CPU and fp32."""
    if answer.provider in ("", "cpu") and answer.precision in ("", "fp32"):
        return ""
    return f"; {printable(answer.precision)} by {printable(answer.provider)}"


def _parity(parity: Parity) -> str:
    """Return the agreement with crops in words, without details that are in a warning."""
    if parity.exact:
        return "exact"
    if not parity.windows:  # an older server
        return f"differs from crops by {parity.max_abs_diff:.2g} (largest seen)"
    share, limits = parity.top_class_agreement, parity.agreement_interval
    if share is not None and limits is not None and share >= LEAST_AGREEMENT:
        return f"the classifier's own top class on {share_of_windows(share, limits)}"
    return "not exact"


def _warnings(answer: Answer) -> list[Text]:
    return [Text(f"warning: {printable(warning)}", style="yellow") for warning in answer.warnings]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
