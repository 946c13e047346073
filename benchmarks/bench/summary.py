"""The summary of a run: how many times as fast this project is as each of the other ways, and as itself in fp32."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

from bench.measure import CaseRun, Entry
from bench.networks import NETWORKS
from bench.numbers import digits, paired, ratios
from bench.ours import AUTO, REFERENCE, InProcess, Pair

Found = tuple[CaseRun, Entry]
"""A contender, and the run in which it was measured."""
RIVALS = ("ONNX Runtime", "PyTorch", "MONAI", "LitServe")
"""Begin of the names of the contenders that form a column; the fastest of them counts."""
HEADER = """\
| network | image, stride | fullconv | seconds | ONNX Runtime | PyTorch | MONAI | LitServe | own fp32 |
|---|---|---|--:|--:|--:|--:|--:|--:|"""


def summary(runs: Sequence[CaseRun]) -> Iterator[str]:
    """Yield the lines of the table: for each image, the modes in which this project scores it by one pass or shared."""
    yield HEADER
    for network, lattice in dict.fromkeys((run.case.network, run.lattice) for run in runs):
        together = [run for run in runs if (run.case.network, run.lattice) == (network, lattice)]
        for mode in ("dense", "shared"):
            own = _own(together, mode, AUTO) or _own(together, mode, REFERENCE)
            if own is not None:
                yield _row(together, mode, own)


def _row(runs: Sequence[CaseRun], mode: str, own: Found) -> str:
    """Return the line of a mode, from the runs of all groups of contenders on one image."""
    run, entry = own
    others = [_fastest(runs, partial(_begins, kind)) for kind in RIVALS]
    cells = [
        NETWORKS[run.case.network].title,
        f"{run.lattice.side}², {run.lattice.stride}",
        mode + (" (padded)" if mode == "dense" and run.is_padded else ""),
        digits(median(entry.seconds)),
        *(_ratio(other, own) for other in (*others, _own(runs, mode, REFERENCE))),
    ]
    return f"| {' | '.join(cells)} |"


def _begins(kind: str, name: str) -> bool:
    return name.startswith(kind)


def _own(runs: Sequence[CaseRun], mode: str, pair: Pair) -> Found | None:
    """Return a mode of this project in-process, if it was measured."""
    return _fastest(runs, InProcess(mode, pair).name.__eq__)


def _fastest(runs: Sequence[CaseRun], is_wanted: Callable[[str], bool]) -> Found | None:
    """Return the measured contender with the lowest median among those with a wanted name; None without any."""
    found = [(run, entry) for run in runs for entry in run.entries if is_wanted(entry.name)]
    measured = [(run, entry) for run, entry in found if entry.seconds and not entry.problem]
    return min(measured, key=lambda each: median(each[1].seconds), default=None)


def _ratio(slow: Found | None, own: Found) -> str:
    """Return how many times as fast the second contender is.

    The times are of the same rounds, or, if other rounds have measured the first, relative to those of ONNX Runtime.
    """
    if slow is None:
        return ""
    if slow[0] is own[0]:
        compared = paired(slow[1], own[1])
        return digits(median(compared)) if compared else ""
    times = [ratios(entry, run) for run, entry in (own, slow)]
    return digits(median(times[0]) / median(times[1])) if all(times) else ""
