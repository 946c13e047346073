"""The course of a run. Successive cases of a network are measured with one conversion, by stride, group and image."""

import gc
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import ours, pytorch
from bench.cases import QUICK, Case, Scope
from bench.contenders import BASELINE, Contender, Setup
from bench.measure import CaseRun, Entry, Runner, prepare
from bench.networks import NETWORKS, Network, make, picture
from bench.numbers import digits, ratios
from bench.served_crops import LitServeCrops
from bench.windows import Lattice
from service.machine import trim_heap

CONTENDERS: tuple[Contender, ...] = (BASELINE, *ours.CONTENDERS, *pytorch.CONTENDERS, LitServeCrops())
"""All contenders; the first is the one with which the others are compared."""


@dataclass
class Bench:
    """A run, which leaves out what was measured before."""

    scope: Scope
    folder: Path
    """Folder for the networks, which the caller removes."""
    runs: list[CaseRun] = field(default_factory=list)
    """What has been measured so far, in this run or before."""

    @property
    def has_results(self) -> bool:
        """Whether a contender was timed."""
        return any(entry.seconds for run in self.runs for entry in run.entries)

    @property
    def plotted(self) -> set[str]:
        """Names of the contenders in the plot: those of a quick run, since all would hide each other."""
        shown = self.scope if self.scope.only else QUICK
        return {each.name for each in CONTENDERS for case in shown.cases if shown.includes(case, each)}

    def measure(self) -> Iterator[CaseRun]:
        """Measure; yields each case when it is finished."""
        done = {run.case for run in self.runs}
        missing = [case for case in self.scope.cases if case not in done and self._compares(case)]
        for name, cases in groupby(missing, key=lambda case: case.network):
            with TemporaryDirectory(dir=self.folder) as folder:
                yield from self._convert_and_measure(name, list(cases), Path(folder))

    def _convert_and_measure(self, name: str, cases: Sequence[Case], folder: Path) -> Iterator[CaseRun]:
        _say(f"{NETWORKS[name].title}: converting")
        try:
            network = make(name, folder, {case.divisor for case in cases})
        except ImportError as error:
            yield from self._leave_out(cases, f"not installed: {error.name or error}")
        except Exception as error:  # of the libraries that build networks
            yield from self._leave_out(cases, f"failed: {type(error).__name__}: {error}")
        else:
            yield from self._measure_network(network, cases)

    def _compares(self, case: Case) -> bool:
        """Return whether contenders are measured in a case, besides the one with which they are compared."""
        return any(self.scope.includes(case, each) for each in CONTENDERS if each is not BASELINE)

    def _leave_out(self, cases: Sequence[Case], problem: str) -> Iterator[CaseRun]:
        """Record that a network is not measured."""
        for case in cases:
            run = CaseRun(case, _lattice(case), is_padded=False, entries=[Entry(BASELINE.name, problem=problem)])
            _say(f"  {problem}")
            self.runs.append(run)
            yield run

    def _measure_network(self, network: Network, cases: Sequence[Case]) -> Iterator[CaseRun]:
        for (stride, _), together in groupby(cases, key=lambda case: (case.stride, case.group)):
            yield from self._measure_group(network, stride, list(together))
            trim_heap()  # the contenders of the next group need the memory

    def _measure_group(self, network: Network, stride: int, cases: Sequence[Case]) -> Iterator[CaseRun]:
        contenders = [each for each in CONTENDERS if any(self.scope.includes(case, each) for case in cases)]
        with ExitStack() as stack:
            _say(f"{network.recipe.title}, stride {stride}: loading {len(contenders)} contenders")
            setup = Setup(network, stride, self.scope.sample(network.name), stack)
            entries = prepare(contenders, setup)
            for case in cases:
                names = {each.name for each in contenders if self.scope.includes(case, each)}
                yield self._measure_case(network, case, [entry for entry in entries if entry.name in names])

    def _measure_case(self, network: Network, case: Case, entries: Sequence[Entry]) -> CaseRun:
        own = [replace(entry, seconds=[]) for entry in entries]
        run = CaseRun(case, _lattice(case), not network.spec.parity[0].exact, own)
        self.runs.append(run)
        _say(f"{network.recipe.title}, {case.side}², stride {case.stride}: {run.lattice.windows:,} windows")
        gc.freeze()  # the collection before each measurement then does not visit every object of the libraries
        runner = Runner(run, picture(network, case.side, self.folder), self.scope)
        runner.compare()
        for number in range(self.scope.rounds):
            runner.measure(number)
        for entry in own:
            entry.prepared = None  # the results of the run do not keep networks in memory
        gc.unfreeze()
        for entry in own:
            _say(f"  {entry.name:50} {_outcome(entry, run)}")
        return run


def _lattice(case: Case) -> Lattice:
    return Lattice(case.side, NETWORKS[case.network].window, case.stride)


def _outcome(entry: Entry, run: CaseRun) -> str:
    """Return the time of a contender, or why it has none."""
    if not entry.seconds:
        return entry.problem
    compared = ratios(entry, run)
    times = f", {digits(statistics.median(compared))} times as fast" if compared else ""
    return f"{digits(statistics.median(entry.seconds))} s{times}"


def _say(text: str) -> None:
    print(text, flush=True)
