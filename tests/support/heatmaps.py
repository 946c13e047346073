"""Heatmaps of invented answers, with windows of 10 pixels at a stride of 10 pixels, over a white image."""

from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray
from support.pictures import png

from fullconv.decode import description_of
from fullconv.grid import GridHeader, GridRows, ImageInfo, WindowAxis
from fullconv.heatmap import heatmap_files
from fullconv.images import FileSource, Region, ScoredPixels
from fullconv.protos import model_pb2, scoring_pb2
from fullconv.shown import ShownClasses, class_indices, shown_classes
from fullconv.style import DEFAULT_STYLE, HeatmapStyle

CELL = 10


def make_shown(
    labels: list[str],
    kind: str = "logits-softmax",
    *,
    single: str | None = None,
    average: str = "scores",
    classes: tuple[str, ...] = (),
) -> ShownClasses:
    """Return the classes that a heatmap shows for a model with these labels."""
    spec = model_pb2.ModelSpec(name="m", output=model_pb2.Output(kind=kind, classes=len(labels)))
    model = description_of(scoring_pb2.GetModelResponse(spec=spec, labels=labels))
    return shown_classes(model, class_indices(model, classes, "classes"), average, single)


def axis(count: int, origin: int = 0, last: int | None = None, scale: float = 1.0) -> WindowAxis:
    """Return windows of CELL pixels along an axis, CELL pixels apart."""
    return WindowAxis(count, origin, CELL * (count - 1) if last is None else last, CELL, CELL, scale=scale)


def header(vertical: WindowAxis, horizontal: WindowAxis, labels: list[str]) -> GridHeader:
    """Return the header of a grid of an image that ends with the last windows."""
    image = ImageInfo("i", width=horizontal.last + CELL, height=vertical.last + CELL)
    return GridHeader(image, vertical, horizontal, tuple(range(len(labels))), tuple(labels), len(labels))


def draw(
    folder: Path,
    scores: np.ndarray,
    shown: ShownClasses,
    grid: GridHeader | list[str],
    *,
    name: str = "heat.png",
    region: Region | None = None,
    pixels: NDArray[np.uint8] | None = None,
    style: HeatmapStyle = DEFAULT_STYLE,
) -> NDArray[np.uint8]:
    """Draw scores (rows, cols, classes) over a white image, or over pixels; returns the picture's pixels.

    `grid` is the grid's header, or the labels of a grid that fills the image.
    """
    rows, cols = scores.shape[:2]
    known = grid if isinstance(grid, GridHeader) else header(axis(rows), axis(cols), grid)
    image = folder / "image.png"
    white = np.full((known.image.height, known.image.width), 255, np.uint8)
    image.write_bytes(png(white if pixels is None else pixels))
    with heatmap_files([folder / name], known, shown, ScoredPixels(FileSource(image), region), style) as take:
        for row in range(0, len(scores), 3):
            take(GridRows(row, scores[row : row + 3].astype(np.float32)))
    return picture(folder / name)


def picture(path: Path) -> NDArray[np.uint8]:
    """Return the pixels of a picture file; read from memory, since libvips caches files that it opens by name."""
    pixels: NDArray[np.uint8] = pyvips.Image.new_from_buffer(path.read_bytes(), "").numpy()
    return pixels
