"""The results of a run: as JSON, as tables in Markdown, and pasted into a page between two marker comments."""

import json
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.cases import GROUPS, Case
from bench.contenders import BASELINE
from bench.measure import CaseRun, Entry
from bench.networks import NETWORKS
from bench.numbers import Spread, ratios
from bench.summary import summary
from bench.windows import Lattice
from fullconv.common.files import atomic_write

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
"""The lines of a page between which the results are pasted."""
NOT_MEASURED = "not measured"
"""What a contender has in place of times if the run was interrupted before."""
HEADER = """\
| contender | seconds | windows timed | times as fast | difference | top class |
|---|--:|--:|--:|--:|--:|"""


def document(runs: Sequence[CaseRun], about: dict[str, Any]) -> dict[str, Any]:
    """Return the results as JSON holds them."""
    return {**about, "baseline": BASELINE.name, "cases": [_case_document(run) for run in runs]}


def _case_document(run: CaseRun) -> dict[str, Any]:
    lattice = run.lattice
    return {
        "network": run.case.network,
        "side": lattice.side,
        "stride": lattice.stride,
        "group": run.case.group.name,
        "window": lattice.window,
        "windows": lattice.windows,
        "is_padded": run.is_padded,
        "contenders": [_entry_document(entry, run) for entry in run.entries],
    }


def _entry_document(entry: Entry, run: CaseRun) -> dict[str, Any]:
    known: dict[str, Any] = {"name": entry.name}
    if not entry.seconds:
        return known | {"problem": entry.problem or NOT_MEASURED}
    compared = ratios(entry, run)
    return known | {
        "detail": entry.detail,
        "problem": entry.problem,
        "windows_timed": entry.timed,
        "seconds": entry.seconds,
        "median": statistics.median(entry.seconds),
        "times_as_fast": compared,
        "times_as_fast_median": statistics.median(compared) if compared else None,
        "difference": entry.difference,
        "top_class_agreement": entry.agreement,
    }


def read(cases: Sequence[dict[str, Any]], rounds: int) -> list[CaseRun]:
    """Return the cases of a document that are complete: every contender has its rounds, or a problem."""
    runs = (_read_case(case) for case in cases if case.get("group") in GROUPS)  # not those of an earlier release
    return [run for run in runs if all(entry.problem or len(entry.seconds) == rounds for entry in run.entries)]


def _read_case(case: dict[str, Any]) -> CaseRun:
    network, side, stride = case["network"], case["side"], case["stride"]
    entries = [
        Entry(
            name=known["name"],
            problem="" if known["problem"] == NOT_MEASURED else known["problem"],
            detail=known.get("detail", ""),
            timed=known.get("windows_timed", 0),
            seconds=known.get("seconds", []),
            difference=known.get("difference"),
            agreement=known.get("top_class_agreement"),
        )
        for known in case["contenders"]
    ]
    divisor = NETWORKS[network].stride // stride
    return CaseRun(
        Case(network, side, divisor, GROUPS[case["group"]]),
        Lattice(side, case["window"], stride),
        case["is_padded"],
        entries,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the results of an earlier run. If the file is missing or damaged, the document is empty."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def markdown(runs: Sequence[CaseRun], about: dict[str, Any]) -> str:
    """Return the results as Markdown: the machine, and a table for each image."""
    runs = sorted(runs, key=_place)
    lines = ["### Summary", "", *summary(runs), "", "### Machine", ""]
    lines += [*(textwrap.fill(line, 118, subsequent_indent="  ") for line in _about(about)), ""]
    for network, of_network in groupby(runs, key=lambda run: run.case.network):
        lines += [f"### {NETWORKS[network].title}", ""]
        own = list(of_network)
        for lattice in dict.fromkeys(run.lattice for run in own):
            lines += [_title(lattice), "", HEADER, *_rows([run for run in own if run.lattice == lattice]), ""]
    return "\n".join(lines)


def _place(run: CaseRun) -> tuple[int, int, int]:
    """Return the sort key of a case: the network, then strides from coarse to fine, then sides from small to large."""
    return list(NETWORKS).index(run.case.network), run.case.divisor, run.case.side


def _about(about: dict[str, Any]) -> Iterator[str]:
    machine, found = about["machine"], about["versions"]
    yield f"- CPU: {machine['cpu']}, {machine['cpus']} cores, {machine['memory_gib']} GiB of memory"
    yield f"- Instructions: {', '.join(machine['flags']) or 'unknown'}; GPU: {machine['gpu']}"
    yield f"- Versions: {', '.join(f'{name} {number}' for name, number in found.items())}"
    end = "" if about["finished"] else ", not finished"
    yield f"- Run: {about['scope']}, {about['rounds']} rounds, {about['date']}, {about['seconds']:.0f} seconds{end}"


def _title(lattice: Lattice) -> str:
    return (
        f"**{lattice.side}×{lattice.side} pixels, stride {lattice.stride}**: {lattice.windows:,} windows of "
        f"{lattice.window} pixels"
    )


def _rows(runs: Sequence[CaseRun]) -> Iterator[str]:
    """Yield the lines of all contenders of an image; ONNX Runtime, which each group has measured, is in the first."""
    for index, run in enumerate(runs):
        yield from (row(entry, run) for entry in run.entries if index == 0 or entry.name != BASELINE.name)


def row(entry: Entry, run: CaseRun) -> str:
    """Return the line of a table for one contender."""
    if entry.problem or not entry.seconds:
        return f"| {entry.name} | {entry.problem or NOT_MEASURED} | | | | |"
    compared = ratios(entry, run)
    detail = f" ({entry.detail})" if entry.detail else ""
    padded = run.is_padded and " dense" in entry.name
    cells = [
        f"{entry.name}{detail}",
        Spread.of(entry.seconds).text(),
        "all" if entry.timed == run.lattice.windows else f"{entry.timed:,}",
        "1" if entry.name == BASELINE.name else Spread.of(compared).text() if compared else "",
        ("" if entry.difference is None else f"{entry.difference:.1e}") + (" padded" if padded else ""),
        "" if entry.agreement is None else f"{entry.agreement:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def paste(page: str, results: str) -> str:
    """Return a page with the results between its markers; raises ValueError if it does not have both."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs: expected a page with the lines {BEGIN} and {END}, got a page without them; add them")
    return f"{head}{BEGIN}\n\n{results}\n{END}{tail}"


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all; raises OutputError."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write the results as JSON; raises OutputError."""
    write_text(path, f"{json.dumps(results, indent=2, ensure_ascii=False)}\n")
