"""The options of objects, and what they mean for a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from fullconv.common.probabilities import RAW
from fullconv.description import ModelDescription
from fullconv.errors import RequestError
from fullconv.shown import FEW, class_indices

OFFSETS = 4
"""Number of values of an output that holds boxes."""
THRESHOLD, OVERLAP = 0.5, 0.3
"""Defaults: the smallest probability of an object, and the largest overlap of two objects."""


class ObjectOptions(TypedDict, total=False):
    """Options of objects, as keywords."""

    classes: Sequence[str | int]
    """Labels or indices of the classes of objects. Default: the second of two classes, otherwise all classes."""
    threshold: float
    """Smallest probability of an object, from 0 to 1. Default: 0.5. For a model without probabilities: its smallest
    score, which has no default."""
    overlap: float
    """Largest intersection over union, from 0 to 1, of the boxes of two objects of the same class. Default: 0.3."""
    across_classes: bool
    """Whether objects of different classes are compared, too. Default: False."""
    box_output: str
    """Name of the model's further output that holds the offsets of the box from the window: left, top, right and
    bottom, as shares of the window's width and height. Default: the box of an object is its window."""


@dataclass(frozen=True)
class ObjectRule:
    """Which windows of a model's grid are objects."""

    classes: tuple[int, ...]
    """The classes of objects, as indices in the network's output."""
    threshold: float
    """Smallest probability or score of an object."""
    overlap: float
    """Largest intersection over union of the boxes of two objects of the same class."""
    across_classes: bool
    """Whether objects of different classes are compared, too."""
    box_output: str | None
    """Name of the further output that holds boxes. None: the box is the window."""


def object_rule(model: ModelDescription, options: ObjectOptions) -> ObjectRule:
    """Apply options to a model; raises RequestError, which names the option, for a value that the model cannot have.

    Raises TypeError for an unknown option.
    """
    known, unknown = ObjectOptions.__annotations__, set(options) - set(ObjectOptions.__annotations__)
    if unknown:
        raise TypeError(f"expected options among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return ObjectRule(
        classes=_classes(model, options.get("classes", ())),
        threshold=_threshold(model, options.get("threshold")),
        overlap=_number("overlap", options.get("overlap", OVERLAP), "an intersection over union from 0 to 1", (0, 1)),
        across_classes=options.get("across_classes", False),
        box_output=_box_output(model, options.get("box_output")),
    )


def _classes(model: ModelDescription, classes: str | int | Sequence[str | int]) -> tuple[int, ...]:
    names = [classes] if isinstance(classes, (str, int)) else classes
    every = tuple(range(model.output.classes))
    return class_indices(model, [str(name) for name in names], "classes") or (every[1:] if len(every) == FEW else every)


def _threshold(model: ModelDescription, threshold: float | None) -> float:
    if model.output.kind != RAW:
        given = THRESHOLD if threshold is None else threshold
        return _number("threshold", given, "a probability from 0 to 1", (0, 1))
    if threshold is None:
        raise RequestError(
            f"threshold: expected the smallest score of an object, since model {model.name!r} has no probabilities; "
            "got none"
        )
    return _number("threshold", threshold, "a finite score", (-math.inf, math.inf))


def _number(field: str, value: Any, expected: str, bounds: tuple[float, float]) -> float:  # noqa: ANN401 (of a caller)
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and bounds[0] <= value <= bounds[1]):
        raise RequestError(f"{field}: expected {expected}, got {value!r}")
    return float(value)


def _box_output(model: ModelDescription, name: str | None) -> str | None:
    possible = [output.name for output in model.output.further if output.values == OFFSETS]
    if name is not None and name not in possible:
        raise RequestError(
            f"box_output: expected a further output of model {model.name!r} with {OFFSETS} values, "
            f"{'one of ' + ', '.join(possible) if possible else 'but it has none'}; got {name!r}"
        )
    return name
