"""The heatmap, from answers that are made up."""

from pathlib import Path

import numpy as np
import pytest
import pyvips
from pictures import png

from client.heatmap import heatmap_file
from protos import model_pb2, scoring_pb2


def draw(folder: Path, scores: np.ndarray, labels: list[str]) -> np.ndarray:
    """Draw scores (rows, cols, classes) over a white image, 10-pixel windows 10 pixels apart; RGB pixels."""
    rows, cols, _ = scores.shape
    size = model_pb2.Size(height=10, width=10)
    response = scoring_pb2.ScoreResponse(
        image=scoring_pb2.ImageInfo(name="i", width=10 * cols, height=10 * rows),
        grid=scoring_pb2.GridInfo(
            rows=rows, cols=cols, stride=size, window=size, last_y=10 * (rows - 1), last_x=10 * (cols - 1)
        ),
        classes=[scoring_pb2.Class(index=index, label=label) for index, label in enumerate(labels)],
    )
    image = folder / "image.png"
    image.write_bytes(png(np.full((10 * rows, 10 * cols), 255, np.uint8)))
    with heatmap_file(folder / "heat.png", image, response) as take:
        for row in range(0, rows, 3):
            take(row, scores[row : row + 3].astype(np.float32))
    return pyvips.Image.new_from_file(str(folder / "heat.png")).numpy()[..., :3]


def test_cells_are_where_they_belong(tmp_path: Path) -> None:
    """The highest score is yellow, the lowest dark blue, each at its own cell, rows downwards."""
    scores = np.full((20, 30, 2), -9.0)
    scores[..., 0] = 1
    scores[3:8, 20:26, 1] = 2
    scores[12:17, 4:10, 1] = 0
    scores[12:17, 4:10, 0] = -1
    heat = draw(tmp_path, scores, ["ground", "thing"])
    cell = 1200 / 30
    red, green, blue = heat[round(5.5 * cell), round(23 * cell)].astype(int)
    assert min(red, green) > blue + 60
    red, green, blue = heat[round(14.5 * cell), round(7 * cell)].astype(int)
    assert green < blue
    assert max(red, green) < 160


@pytest.mark.parametrize("label", ["$\\frac{a$", "US$ and x$", "x" * 300, "naïve ✓", "图"], ids=range(5))
def test_any_label_can_be_drawn(tmp_path: Path, label: str) -> None:
    """Labels are text, whatever they look like."""
    scores = np.random.default_rng(0).standard_normal((9, 9, 3))
    assert draw(tmp_path, scores, ["a", label, "_hidden"]).std() > 5


def test_cells_that_were_not_scored_show_the_image(tmp_path: Path) -> None:
    """Where a mask leaves cells out there is no colour, and nobody wins."""
    scores = np.zeros((20, 30, 2))
    scores[..., 0] = 1
    scores[:, 15:] = np.nan
    heat = draw(tmp_path, scores, ["ground", "thing"]).astype(int)
    assert np.ptp(heat[300, 300]) > 30
    assert heat[300, 900].min() > 250


def test_windows_flush_with_the_edge_are_drawn_there(tmp_path: Path) -> None:
    """An anchored row and column fill what is left between the last block of the lattice and the edge."""
    rows = cols = 4
    size = model_pb2.Size(height=10, width=10)
    response = scoring_pb2.ScoreResponse(
        image=scoring_pb2.ImageInfo(name="i", width=36, height=36),
        grid=scoring_pb2.GridInfo(rows=rows, cols=cols, stride=size, window=size, last_y=26, last_x=26),
        classes=[scoring_pb2.Class(index=0, label="a")],
    )
    image = tmp_path / "image.png"
    image.write_bytes(png(np.full((36, 36), 255, np.uint8)))
    scores = np.zeros((rows, cols, 1), np.float32)
    scores[-1] = 1
    with heatmap_file(tmp_path / "heat.png", image, response) as take:
        take(0, scores)
    heat = pyvips.Image.new_from_file(str(tmp_path / "heat.png")).numpy()[..., :3].astype(int)
    pixel = 1200 / 36
    lattice, flush = (heat[round(y * pixel), round(5 * pixel)] for y in (28, 33))
    assert lattice[2] > lattice[0]  # the lowest score: dark blue
    assert flush[0] > flush[2]  # the highest: yellow
