"""The command of `make bench`: measures, and writes results.json, table.md and plot.png.

    PYTHONPATH=benchmarks python -m bench [--full] [--networks vgg16 …] [--sides 384 …] [--docs docs/benchmarks.md]

Ctrl-C or SIGTERM ends the run and writes what was measured until then. The same command continues it.
"""

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import plot, report
from bench.cases import FULL, QUICK, Scope
from bench.machine import machine, versions
from bench.measure import CaseRun
from bench.run import Bench
from fullconv.common.files import OutputError

RESULTS = "results.json"
PLOT = "Time against the side of the image, a panel for each network and a line for each contender"


def main() -> None:
    """Measure, and write the results. Exit status 130 after Ctrl-C or SIGTERM, 1 if nothing was measured."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are ended, and results are written
    warnings.simplefilter("ignore")  # of other projects, such as MONAI's about its own imports
    if options.preload:
        importlib.import_module(options.preload)
    scope = _scope(options)
    about = {
        "scope": "full" if options.full else "quick",
        "rounds": scope.rounds,
        "only": scope.only,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "versions": versions(),
    }
    earlier, seconds = _interrupted(options.out / RESULTS, about)
    earlier = [run for run in earlier if run.case in scope.cases]
    if earlier:
        done = f"{len(earlier)} of {len(scope.cases)} cases are measured"
        print(f"continuing {options.out / RESULTS}: {done}; remove it to begin again", flush=True)
    began, status = time.monotonic() - seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # "auto" measures its choices in this run
        bench = Bench(scope, Path(folder), earlier)
        try:
            for _ in bench.measure():
                _write(bench, about | {"seconds": time.monotonic() - began, "finished": False}, options)
        except KeyboardInterrupt:
            status = 130
        _write(bench, about | {"seconds": time.monotonic() - began, "finished": not status}, options)
    sys.exit(status or not bench.has_results)


def _options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="measure in less than 10 minutes (default)")
    size.add_argument("--full", action="store_true", help="measure every network, side and stride; takes some hours")
    parser.add_argument("--networks", nargs="+", help="names of networks (default: all)")
    parser.add_argument("--sides", type=int, nargs="+", help="sides of images in pixels (default: those of the run)")
    parser.add_argument("--divisors", type=int, nargs="+", help="parts of the native stride: 1, 2, 4 (default: all)")
    parser.add_argument("--only", default="", help="measure only contenders whose names have this text")
    parser.add_argument("--rounds", type=int, help="measurements of each contender (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("build/bench-results"), help="folder (default: %(default)s)")
    parser.add_argument("--docs", type=Path, help="page into which the tables are pasted; the plot is put beside it")
    parser.add_argument("--preload", help="module to import before torchvision, if torchvision needs it")
    return parser.parse_args()


def _scope(options: argparse.Namespace) -> Scope:
    """Return what is measured: the cases of the run that the options choose."""
    scope = FULL if options.full else QUICK
    cases = tuple(
        case
        for case in scope.cases
        if (not options.networks or case.network in options.networks)
        and (not options.sides or case.side in options.sides)
        and (not options.divisors or case.divisor in options.divisors)
    )
    if not cases:
        sys.exit("bench: expected networks, sides and divisors of this run, got others; leave some of them out")
    return replace(scope, cases=cases, rounds=options.rounds or scope.rounds, only=options.only)


def _interrupted(path: Path, about: dict[str, Any]) -> tuple[list[CaseRun], float]:
    """Return the cases and the seconds of an unfinished run on the same machine, with the same versions and options."""
    found = report.read_json(path)
    same = all(found.get(name) == about[name] for name in about if name != "date")
    if found.get("finished", True) or not same:
        return [], 0.0
    return report.read(found["cases"], about["rounds"]), found["seconds"]


def _write(bench: Bench, about: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the results so far, if there are any; ends the program if they cannot be written."""
    if not bench.has_results:
        return
    tables = report.markdown(bench.runs, about)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        report.write_json(options.out / RESULTS, report.document(bench.runs, about))
        report.write_text(options.out / "table.md", f"{tables}\n")
        plot.draw(bench.runs, options.out / "plot.png", bench.plotted)
        if options.docs:
            picture = options.docs.with_suffix(".png")
            plot.draw(bench.runs, picture, bench.plotted)
            page = report.paste(options.docs.read_text("utf-8"), f"![{PLOT}]({picture.name})\n\n{tables}")
            report.write_text(options.docs, page)
    except (OSError, OutputError, ValueError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
