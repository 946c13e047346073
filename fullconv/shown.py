"""The choice of the classes that a heatmap shows, and of the scores that it needs for them.

One class is shown by its probability; several classes are shown by the class that wins in each cell. Softmax needs the
scores of all classes, even where the answer names only some of them. The command then requests the grid of all classes,
and reduces the answer and the grid to the requested classes afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fullconv.common.probabilities import RAW, SOFTMAX
from fullconv.description import ModelDescription, ModelOutput
from fullconv.errors import RequestError

FEW = 2
"""A heatmap of a model with this number of classes or fewer shows the last class, unless a class is named."""


@dataclass(frozen=True)
class ShownClasses:
    """The classes that a heatmap shows, as indices in the network's output."""

    output: ModelOutput
    single: int | None
    """The class whose scores are shown. None: in each cell the class that wins, among `chosen`."""
    chosen: tuple[int, ...]
    """The classes of the answer and of the grid, in this order."""
    probabilities: bool
    """Whether the colour is a probability. If not, it is the network's score."""

    @property
    def has_all(self) -> bool:
        """Whether the answer has all classes."""
        return set(self.chosen) == set(range(self.output.classes))

    @property
    def needs_all(self) -> bool:
        """Whether the picture needs scores of classes that the answer does not have."""
        if self.has_all:
            return False
        missing = self.single is not None and self.single not in self.chosen
        return missing or (self.probabilities and self.output.kind == SOFTMAX)


def shown_classes(
    model: ModelDescription, chosen: Sequence[int], average_of: str, heatmap_class: str | None = None
) -> ShownClasses:
    """Choose the classes that a heatmap shows.

    The heatmap shows the class `heatmap_class`, if it is given; else the only class that the model has or that is
    `chosen`; else the second of two classes; else the winning classes. `chosen` are the classes of the answer, empty
    for all; `average_of` says what is averaged.

    Raises RequestError if `heatmap_class` is neither a label nor an index.
    """
    output, chosen = model.output, tuple(chosen)
    single = None
    if heatmap_class is not None:
        (single,) = class_indices(model, [heatmap_class], "heatmap-class")
    elif len(chosen) == 1:
        single = chosen[0]
    elif output.classes <= FEW:
        single = output.classes - 1
    wanted = single is not None or average_of == "probabilities"
    return ShownClasses(output, single, chosen or tuple(range(output.classes)), wanted and output.kind != RAW)


def class_indices(model: ModelDescription, names: Sequence[str], field: str) -> tuple[int, ...]:
    """Return the indices of classes, each once; a name is a label or else an index.

    Raises RequestError, which names the field, for a name that is neither.
    """
    indices = {str(index): index for index in range(model.output.classes)}
    indices |= {label: index for index, label in reversed(list(enumerate(model.labels)))}
    for name in names:
        if name not in indices:
            raise RequestError(
                f"{field}: expected labels of model {model.name!r} or 0 to {model.output.classes - 1}, got {name!r}"
            )
    return tuple(dict.fromkeys(indices[name] for name in names))
