"""The objects of an image as arrays, one by one, and as files."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.common.files import BOX_SUFFIXES
from fullconv.common.text import counted, printable
from fullconv.errors import RequestError
from fullconv.objects.detected import DetectedObject
from fullconv.objects.files import object_files
from fullconv.objects.suppression import Boxes


@dataclass(frozen=True, eq=False)
class DetectedObjects:
    """The objects of an image, the highest score first; a loop over them yields a `DetectedObject` for each."""

    boxes: Boxes
    """x, y, width and height in pixels of the image, (objects, 4): integers if the boxes are windows."""
    scores: NDArray[np.float32]
    """Probability of each object's class; for a model without probabilities, its score: (objects,)."""
    classes: NDArray[np.int64]
    """Index of each object's class in the network's output, (objects,)."""
    windows: NDArray[np.int64]
    """x, y, width and height of each object's window, in pixels of the image, (objects, 4)."""
    further: Mapping[str, NDArray[np.float32]]
    """Values of the model's further outputs for each object's window by the output's name, each (objects, values)."""
    names: Mapping[int, str]
    """The label of each class that was looked for, by its index."""
    colours: Mapping[int, str]
    """The colour "#rrggbb" of classes that have a colour, by their indices."""

    @property
    def labels(self) -> list[str]:
        """The label of each object's class."""
        return [self.names[index] for index in self.classes.tolist()]

    def save(self, path: str | Path) -> None:
        """Write the objects as .geojson or .csv, the same files as those of `fullconv-score --boxes`.

        Raises:
            RequestError: The suffix is unknown.
            OutputError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in BOX_SUFFIXES:
            expected = " or ".join(BOX_SUFFIXES)
            raise RequestError(f"save: expected a file name that ends in {expected}, got {str(path)!r}")
        with object_files([path]) as write:
            write(self)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[DetectedObject]:
        for index, score, box in zip(self.classes.tolist(), self.scores, self.boxes.tolist(), strict=True):
            # the shortest decimal that float32 reads back
            yield DetectedObject(self.names[index], index, self.colours.get(index), float(str(score)), *box)

    def __repr__(self) -> str:
        """Return the number of objects, and the number of objects of each class in parentheses."""
        numbers = Counter(self.classes.tolist())
        classes = [f"{printable(name)} ({numbers[index]})" for index, name in self.names.items() if numbers[index]]
        return f"<{counted(len(self), 'object')}: {', '.join(classes) or 'none'}>"
