"""Files of objects. The suffix of a file decides its format.

.geojson   a rectangle for each object, as QuPath reads them: File, Import objects from file
.csv       minx, miny, width, height, class, score: a line for each object

Objects are in the order of their scores, the highest first. Positions are pixels of the image.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from fullconv.common.csv_file import write_rows
from fullconv.common.files import atomic_write
from fullconv.features import classification, feature, feature_collection, rectangle
from fullconv.objects.detected import DetectedObject

COLUMNS = ["minx", "miny", "width", "height", "class", "score"]


@contextmanager
def object_files(paths: Sequence[Path]) -> Iterator[Callable[[Iterable[DetectedObject]], None]]:
    """Begin to write files; yields the function that takes the objects. Raises OutputError."""
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_write(path)) for path in paths]

        def write(objects: Iterable[DetectedObject]) -> None:
            for path, file in zip(paths, files, strict=True):
                WRITERS[path.suffix.lower()](file, objects)

        yield write


def write_csv(file: BinaryIO, objects: Iterable[DetectedObject]) -> None:
    """Write a table."""
    rows = ([each.x, each.y, each.width, each.height, each.label, each.score] for each in objects)
    write_rows(file, chain([COLUMNS], rows))


def write_geojson(file: BinaryIO, objects: Iterable[DetectedObject]) -> None:
    """Write a collection of features."""
    with feature_collection(file) as add:
        for each in objects:
            ring = rectangle(each.x, each.x + each.width, each.y, each.y + each.height)
            measurements = json.dumps({"score": each.score})
            add(feature("detection", [ring], classification(each.label, each.colour), measurements))


WRITERS: Mapping[str, Callable[[BinaryIO, Iterable[DetectedObject]], None]] = {
    ".geojson": write_geojson,
    ".csv": write_csv,
}
"""The function that writes each format."""
