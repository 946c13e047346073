"""The text that an answer prints."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from fullconv import Answer
from fullconv.command.table import answer_table
from fullconv.decode import answer_of
from fullconv.protos import scoring_pb2


def answered(labels: list[str], name: str = "page.png") -> Answer:
    """Return an answer with a grid of 7×14 windows, whose averages rise from class to class."""
    response = scoring_pb2.ScoreResponse(model="net", version="3", mode="dense")
    response.image.name, response.image.width, response.image.height = name, 200, 100
    response.grid.rows, response.grid.cols, response.grid.depth = 7, 14, len(labels)
    response.grid.window.height = response.grid.window.width = 40
    response.grid.stride.height = response.grid.stride.width = 10
    for index, label in enumerate(labels):
        response.classes.add(index=index, label=label)
    response.average.values[:] = [index / 4 for index in range(len(labels))]
    response.average.top[:] = list(reversed(range(len(labels))))
    response.scores = np.zeros((7, 14, len(labels)), "<f4").tobytes()
    return answer_of(response)


def test_an_answer_in_a_few_lines() -> None:
    """`repr` names the image, the model, the windows, the highest averages and the warnings."""
    answer = replace(answered(["cat", "dog", "hen"]), warnings=("dense is not exact",))
    assert repr(answer).splitlines() == [
        "<Answer page.png (200×100): net/3, dense",
        "  7×14 windows of 40×40 pixels, 10 apart, with their scores",
        "  averages of scores: hen 0.5, dog 0.25, cat 0",
        "  warning: dense is not exact>",
    ]
    assert str(answer) == repr(answer)


@pytest.mark.parametrize("label", ["class", "c" * 10_000, "a\nb\x1b[2J"], ids=["short", "long", "control"])
def test_the_text_of_a_large_answer_is_short(label: str) -> None:
    """`repr` stays short and printable with a thousand classes, long names and control characters."""
    answer = answered([f"{label}{index}" for index in range(1000)], name=label * 20)
    lines = repr(replace(answer, warnings=(label,) * 20)).split("\n")
    assert len(lines) == 6
    assert all(len(line) < 500 for line in lines)
    assert all(line.isprintable() for line in lines)


def test_an_answer_without_averages() -> None:
    """`repr` of the answer to a plan says that nothing was scored."""
    response = scoring_pb2.ScoreResponse(mode="crops")
    assert repr(answer_of(response)).splitlines() == [
        "<Answer  (0×0): /, crops",
        "  0×0 windows of 0×0 pixels, 0 apart, without their scores",
        "  planned, not scored>",
    ]


def test_strides_that_differ() -> None:
    """If the windows are further apart horizontally than vertically, `repr` and the table state both distances."""
    answer = answered(["cat", "dog"])
    header = replace(answer.header, horizontal=replace(answer.header.horizontal, stride=20))
    wide = replace(answer, header=header)
    assert "windows of 40×40 pixels, 10×20 apart, with" in repr(wide)
    console = Console(file=StringIO(), width=200)
    console.print(answer_table(wide))
    assert "(height×width), 10×20 apart" in console.file.getvalue()  # type: ignore[attr-defined]
