"""What is printed of an answer."""

import numpy as np
import pytest

from fullconv import Answer
from fullconv.protos import scoring_pb2


def answered(labels: list[str], name: str = "page.png") -> Answer:
    """An answer with a grid of 7×14 windows, whose averages rise from class to class."""
    response = scoring_pb2.ScoreResponse(model="net", version="3", mode="dense")
    response.image.name = name
    response.grid.rows, response.grid.cols, response.grid.depth = 7, 14, len(labels)
    for index, label in enumerate(labels):
        response.classes.add(index=index, label=label)
    response.average.values[:] = [index / 4 for index in range(len(labels))]
    response.average.top[:] = list(reversed(range(len(labels))))
    response.scores = np.zeros((7, 14, len(labels)), "<f4").tobytes()
    return Answer(response)


def test_an_answer_in_one_line() -> None:
    """The image, the model, the mode, the grid's shape and the highest averages."""
    answer = answered(["cat", "dog", "hen"])
    assert repr(answer) == "<Answer 'page.png': 'net'/3, dense, grid 7×14×3; 'hen' 0.5, 'dog' 0.25, 'cat' 0>"
    assert str(answer) == repr(answer)


@pytest.mark.parametrize("label", ["class", "c" * 10_000, "a\nb\x1b[2J"], ids=["short", "long", "control"])
def test_an_answer_is_short_however_large(label: str) -> None:
    """A thousand classes, long names and control characters make no long line, and no second one."""
    text = repr(answered([f"{label}{index}" for index in range(1000)], name=label * 20))
    assert len(text) < 500
    assert text.isprintable()


def test_an_answer_without_averages() -> None:
    """That of a plan has neither image nor averages to name."""
    assert repr(Answer(scoring_pb2.ScoreResponse(mode="crops"))) == "<Answer '': ''/, crops, grid 0×0×0; no averages>"
