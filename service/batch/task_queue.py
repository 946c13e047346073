"""The tasks of a job on a cluster: what is to be done next, and what follows from the results.

    PartTask → PartReport                                               a part without large images
    PartTask → BegunPart → SectionTask of each section → FinishTask → PartReport

A begun part comes before parts that have not begun.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from service.batch.item import ScoredSection
from service.batch.worker import BegunPart, PartReport, SectionReport, Sections


@dataclass(frozen=True)
class PartTask:
    """Score the images of a part, except for those that are divided."""

    number: int


@dataclass(frozen=True)
class SectionTask:
    """Score a section of a divided image."""

    number: int
    """Number of the part."""
    position: int
    """Position of the image in the part."""
    section: int
    sections: int
    """Number of the image's sections."""


@dataclass(frozen=True)
class FinishTask:
    """Merge the divided images of a part, and write its files."""

    number: int


Task = PartTask | SectionTask | FinishTask


@dataclass(eq=False)
class _Pending:
    """A part that has begun, and the sections that were scored, by the position of the image and the section."""

    begun: BegunPart
    scored: dict[tuple[int, int], ScoredSection] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.scored) == sum(self.begun.sections.values())


class TaskQueue:
    """The tasks that wait, and the parts that have begun."""

    def __init__(self, numbers: Iterable[int]) -> None:
        """Queue the parts of these numbers."""
        self._parts = deque(map(PartTask, numbers))
        self._urgent: deque[Task] = deque()
        self._pending: dict[int, _Pending] = {}

    def take(self, *, begun_only: bool = False) -> Task | None:
        """Return the next task; None if no task waits. `begun_only`: no further part begins."""
        if self._urgent:
            return self._urgent.popleft()
        return self._parts.popleft() if self._parts and not begun_only else None

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Queue tasks again that were taken and not done; they are the next ones, in the same order."""
        for task in reversed([*tasks]):
            if isinstance(task, PartTask):
                self._parts.appendleft(task)
            else:
                self._urgent.appendleft(task)

    def is_done(self, *, begun_only: bool = False) -> bool:
        """Return whether no task waits; `begun_only`: of the parts that have begun."""
        return not self._urgent and (begun_only or not self._parts)

    def add(self, result: PartReport | BegunPart | SectionReport, task: Task) -> PartReport | SectionReport | None:
        """Take the result of a task, and queue what follows; returns the report of it, if there is one."""
        match result:
            case BegunPart():
                self._pending[result.number] = _Pending(result)
                self._urgent += (
                    SectionTask(result.number, position, section, sections)
                    for position, sections in result.sections.items()
                    for section in range(sections)
                )
                return None
            case SectionReport():
                self._add_section(result, task)
            case PartReport():
                self._pending.pop(result.number, None)
        return result

    def _add_section(self, report: SectionReport, task: Task) -> None:
        """Take a section; if it has no scores, the image's sections below it are not scored either."""
        assert isinstance(task, SectionTask)  # noqa: S101 (only it has such a report)
        pending = self._pending[task.number]
        pending.scored[task.position, task.section] = report.scored
        if report.scored.failure is not None:
            for each in [*self._urgent]:
                if isinstance(each, SectionTask) and _is_below(each, task):
                    self._urgent.remove(each)
                    pending.scored[each.position, each.section] = report.scored
        if pending.is_complete:
            self._urgent.append(FinishTask(task.number))

    def begun(self, number: int) -> tuple[BegunPart, Sections]:
        """Return a part all of whose sections were scored, and the sections."""
        pending = self._pending[number]
        return pending.begun, {
            position: [pending.scored[position, section] for section in range(sections)]
            for position, sections in pending.begun.sections.items()
        }


def _is_below(task: SectionTask, other: SectionTask) -> bool:
    """Return whether a task scores a section of the same image further down."""
    same_image = (task.number, task.position) == (other.number, other.position)
    return same_image and task.section > other.section
