"""Heatmaps of invented answers, with windows of 10 pixels at a stride of 10 pixels, over a white image."""

from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray
from support.pictures import png

from fullconv.heatmap import heatmap_file
from fullconv.protos import model_pb2, scoring_pb2
from fullconv.subject import Subject, subject_of

CELL = 10


def subject(
    labels: list[str],
    kind: str = "logits-softmax",
    *,
    shown: str | None = None,
    average: scoring_pb2.AverageOf = scoring_pb2.AVERAGE_OF_SCORES,
    classes: tuple[str, ...] = (),
) -> Subject:
    """Return what a heatmap shows of a model with these labels."""
    spec = model_pb2.ModelSpec(output=model_pb2.Output(kind=kind, classes=len(labels)))
    options = scoring_pb2.ScoreOptions(average=average, classes=classes)
    request = scoring_pb2.ScoreRequest(model="m", options=options)
    return subject_of(scoring_pb2.GetModelResponse(spec=spec, labels=labels), request, shown)


def answer(rows: int, cols: int, labels: list[str], **grid: int) -> scoring_pb2.ScoreResponse:
    """Return the response for an image that the cells fill; `grid` holds fields of GridInfo to change."""
    size = model_pb2.Size(height=CELL, width=CELL)
    fields: dict[str, Any] = {"last_y": CELL * (rows - 1), "last_x": CELL * (cols - 1)} | grid
    return scoring_pb2.ScoreResponse(
        image=scoring_pb2.ImageInfo(name="i", width=fields["last_x"] + CELL, height=fields["last_y"] + CELL),
        grid=scoring_pb2.GridInfo(rows=rows, cols=cols, stride=size, window=size, **fields),
        classes=[scoring_pb2.Class(index=index, label=label) for index, label in enumerate(labels)],
    )


def draw(
    folder: Path,
    scores: np.ndarray,
    shown: Subject,
    labels: list[str],
    *,
    name: str = "heat.png",
    options: scoring_pb2.ScoreOptions | None = None,
    pixels: NDArray[np.uint8] | None = None,
    **grid: int,
) -> NDArray[np.uint8]:
    """Draw scores (rows, cols, classes) over a white image, or over `pixels`; returns the picture's pixels, RGB."""
    response = answer(scores.shape[0], scores.shape[1], labels, **grid)
    image = folder / "image.png"
    white = np.full((response.image.height, response.image.width), 255, np.uint8)
    image.write_bytes(png(white if pixels is None else pixels))
    with heatmap_file(folder / name, image, response, shown, options or scoring_pb2.ScoreOptions()) as take:
        for row in range(0, len(scores), 3):
            take(row, scores[row : row + 3].astype(np.float32))
    return picture(folder / name)


def picture(path: Path) -> NDArray[np.uint8]:
    """Return the pixels of a picture file; read from memory, since libvips caches files that it opens by name."""
    pixels: NDArray[np.uint8] = pyvips.Image.new_from_buffer(path.read_bytes(), "").numpy()
    return pixels
