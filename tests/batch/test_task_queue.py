"""The tasks of a job on a cluster: their order, and what follows from their results."""

import pytest

from service.batch.item import Divided, Scored, ScoredSection, Times
from service.batch.task_queue import FinishTask, PartTask, SectionTask, Task, TaskQueue
from service.batch.worker import BegunPart, PartReport, SectionReport

SCORED = Scored({"path": "a"}, Times())
FAILED = Scored({"path": "b", "error": "damaged", "error_kind": "image"}, Times())


def begun(number: int, *sections: int) -> BegunPart:
    """Return a part that has begun; 0 stands for an image that is not divided."""
    return BegunPart(number, tuple(Divided(count) if count else SCORED for count in sections), 1.0)


def section(task: SectionTask, failure: Scored | None = None) -> SectionReport:
    """Return the report of a section."""
    scored = ScoredSection(Times(total=task.section), failure)
    return SectionReport(task.number, "b", task.section, task.sections, 1.0, "host", 1, scored)


def taken(queue: TaskQueue) -> list[Task]:
    """Take all tasks that wait."""
    tasks = []
    while (task := queue.take()) is not None:
        tasks.append(task)
    return tasks


def test_parts_without_large_images_are_single_tasks() -> None:
    """Parts are taken in their order, and their reports are passed on."""
    queue = TaskQueue([3, 5])
    assert taken(queue) == [PartTask(3), PartTask(5)]
    report = PartReport(3, 1, 1.0, "host")
    assert queue.add(report, PartTask(3)) is report
    assert queue.is_done()


def test_sections_follow_a_part_and_precede_further_parts() -> None:
    """The sections of all divided images of a part are next; the part is finished after the last of them."""
    queue = TaskQueue([0, 1])
    queue.take()
    assert queue.add(begun(0, 0, 2, 1), PartTask(0)) is None
    first, second, third = (SectionTask(0, *each) for each in ((1, 0, 2), (1, 1, 2), (2, 0, 1)))
    assert taken(queue) == [first, second, third, PartTask(1)]
    for task in (second, third, first):
        assert not taken(queue)
        report = section(task)
        assert queue.add(report, task) is report
    assert taken(queue) == [FinishTask(0)]
    part, sections = queue.begun(0)
    assert part == begun(0, 0, 2, 1)
    assert {at: [each.times.total for each in scored] for at, scored in sections.items()} == {1: [0, 1], 2: [0]}


def test_sections_below_a_failure_are_left_out() -> None:
    """After a failure only the sections above it are scored: the first failure from the top is the image's error."""
    queue = TaskQueue([0])
    queue.take()
    queue.add(begun(0, 4), PartTask(0))
    first, second = queue.take(), queue.take()
    assert isinstance(second, SectionTask)
    queue.add(section(second, FAILED), second)
    assert queue.is_done()
    assert isinstance(first, SectionTask)
    queue.add(section(first), first)
    assert taken(queue) == [FinishTask(0)]
    assert [each.failure for each in queue.begun(0)[1][0]] == [None, FAILED, FAILED, FAILED]


@pytest.mark.parametrize("begun_only", [False, True], ids=["going on", "ending"])
def test_lost_tasks_are_next(begun_only: bool) -> None:  # noqa: FBT001 (a parameter)
    """Tasks of a lost node wait again before others; while the job ends, no further part begins."""
    queue = TaskQueue([0, 1, 2])
    queue.take()
    queue.take()
    queue.add(begun(0, 2), PartTask(0))
    lost = [PartTask(1), queue.take(), queue.take()]
    queue.put_back(each for each in lost if each is not None)
    expected = [SectionTask(0, 0, 0, 2), SectionTask(0, 0, 1, 2)]
    assert [queue.take(begun_only=begun_only) for _ in range(2)] == expected
    assert queue.is_done(begun_only=begun_only) == begun_only
    assert queue.take(begun_only=begun_only) == (None if begun_only else PartTask(1))
