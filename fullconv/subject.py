"""What a heatmap shows, the scores that this needs, and the answer as if no more had been asked for.

One class is shown by its probability, several classes by the class that wins in each cell. Softmax needs the scores of
all classes, also where the answer names a few of them. Then the request names no classes, so that the grid has all of
them, and the answer and the grid are narrowed here to the classes that were asked for.
"""

from dataclasses import dataclass

import numpy as np

from fullconv.answer import Scores
from fullconv.errors import RequestError
from fullconv.protos import model_pb2, scoring_pb2

SOFTMAX, RAW = "logits-softmax", "raw"
FEW = 2
"""A heatmap of a model with this number of classes or fewer shows the last class, unless a class is named."""


@dataclass(frozen=True)
class Subject:
    """What a heatmap shows; classes are positions in the network's output."""

    output: model_pb2.Output
    shown: int | None
    """The class whose scores are shown; None: the class that wins, among `chosen`."""
    chosen: tuple[int, ...]
    """The classes of the answer and of the grid, in this order."""
    probabilities: bool
    """Whether the colour is a probability; else it is the network's own score."""

    @property
    def needs_all(self) -> bool:
        """Whether the picture needs scores of classes that the answer does not have."""
        if set(self.chosen) == set(range(self.output.classes)):
            return False
        foreign = self.shown is not None and self.shown not in self.chosen
        return foreign or (self.probabilities and self.output.kind == SOFTMAX)

    def columns(self, response: scoring_pb2.ScoreResponse) -> list[int]:
        """The positions of `chosen` in the classes of a response."""
        found = {entry.index: column for column, entry in enumerate(response.classes)}
        return [found[index] for index in self.chosen]

    def narrowed(self, response: scoring_pb2.ScoreResponse) -> scoring_pb2.ScoreResponse:
        """The response with the classes of `chosen` alone; without the grid's scores, if it had more."""
        columns = self.columns(response)
        if columns == list(range(len(response.classes))):
            return response
        answer = scoring_pb2.ScoreResponse()
        answer.CopyFrom(response)
        for field in ("classes", "scores", "positions"):
            answer.ClearField(field)
        answer.classes.extend(response.classes[column] for column in columns)
        answer.grid.depth = len(columns)
        if response.average.values:
            values = np.array([response.average.values[column] for column in columns])
            answer.average.values[:] = values.tolist()
            answer.average.top[:] = np.argsort(-values, kind="stable")[: len(response.average.top)].tolist()
        return answer

    def picked(self, response: scoring_pb2.ScoreResponse, scores: Scores) -> Scores:
        """Rows of the response's grid (rows, cols, classes) with the classes of `chosen` alone."""
        columns = self.columns(response)
        return scores if columns == list(range(len(response.classes))) else scores[..., columns]


def subject_of(
    model: scoring_pb2.GetModelResponse, request: scoring_pb2.ScoreRequest, heatmap_class: str | None
) -> Subject:
    """The class named; or the only class that the model has, or is asked for; or the second of two; else the winners.

    Raises RequestError if a name in the request's classes, or `heatmap_class`, is neither a label nor an index.
    """
    output, options = model.spec.output, request.options
    positions = {str(index): index for index in range(output.classes)}
    positions |= {label: index for index, label in reversed(list(enumerate(model.labels)))}
    named = [("classes", name) for name in options.classes]
    named += [] if heatmap_class is None else [("heatmap-class", heatmap_class)]
    for field, name in named:
        if name not in positions:
            raise RequestError(
                f"{field}: expected labels of model {request.model!r} or 0 to {output.classes - 1}, got {name!r}"
            )
    chosen = tuple(dict.fromkeys(positions[name] for name in options.classes))
    shown = None
    if heatmap_class is not None:
        shown = positions[heatmap_class]
    elif len(chosen) == 1:
        shown = chosen[0]
    elif output.classes <= FEW:
        shown = output.classes - 1
    asked = shown is not None or options.average == scoring_pb2.AVERAGE_OF_PROBABILITIES
    return Subject(output, shown, chosen or tuple(range(output.classes)), asked and output.kind != RAW)
