"""The summary of a run: how many times as fast this project is as each of the other ways, and as itself in fp32."""

from collections.abc import Iterator, Sequence
from statistics import median

from bench.measure import CaseRun, Entry
from bench.networks import NETWORKS
from bench.numbers import digits, paired
from bench.ours import AUTO, REFERENCE, InProcess

RIVALS = ("ONNX Runtime", "PyTorch", "MONAI", "LitServe")
"""Begin of the names of the contenders that form a column; the fastest of them counts."""
HEADER = """\
| network | image, stride | fullconv | seconds | ONNX Runtime | PyTorch | MONAI | LitServe | own fp32 |
|---|---|---|--:|--:|--:|--:|--:|--:|"""


def summary(runs: Sequence[CaseRun]) -> Iterator[str]:
    """Yield the lines of the table: for each image, the modes in which this project scores it by one pass or shared."""
    yield HEADER
    for run in runs:
        for mode in ("dense", "shared"):
            own = fastest(run, [InProcess(mode, AUTO).name]) or fastest(run, [InProcess(mode, REFERENCE).name])
            if own is not None:
                yield _row(run, mode, own)


def _row(run: CaseRun, mode: str, own: Entry) -> str:
    reference = fastest(run, [InProcess(mode, REFERENCE).name])
    rivals = [fastest(run, [entry.name for entry in run.entries if entry.name.startswith(name)]) for name in RIVALS]
    cells = [
        NETWORKS[run.case.network].title,
        f"{run.lattice.side}², {run.lattice.stride}",
        mode + (" (padded)" if mode == "dense" and run.is_padded else ""),
        digits(median(own.seconds)),
        *(_ratio(other, own) for other in (*rivals, reference)),
    ]
    return f"| {' | '.join(cells)} |"


def fastest(run: CaseRun, names: Sequence[str]) -> Entry | None:
    """Return the measured contender with the lowest median among these names; None if none was measured."""
    measured = [entry for entry in run.entries if entry.name in names and entry.seconds and not entry.problem]
    return min(measured, key=lambda entry: median(entry.seconds), default=None)


def _ratio(slow: Entry | None, own: Entry) -> str:
    return "" if slow is None or not (ratios := paired(slow, own)) else digits(median(ratios))
