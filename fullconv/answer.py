"""An answer: the averages, the grid, and the JSON that `--json` prints."""

import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.protos import model_pb2, scoring_pb2

Scores = NDArray[np.float32] | NDArray[np.float16]

TOP = 5
"""Classes that an answer's `repr` names at the most."""
AVERAGES = {
    scoring_pb2.AVERAGE_OF_SCORES: "scores",
    scoring_pb2.AVERAGE_OF_PROBABILITIES: "probabilities",
}


@dataclass(frozen=True)
class Entry:
    """A class and its average over all windows."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What was found in one image; `response` is the whole message (protos/scoring.proto)."""

    response: scoring_pb2.ScoreResponse

    def __repr__(self) -> str:
        """The image, the model, the mode, the grid's shape and the highest averages, on one line of bounded length."""
        response, grid = self.response, self.response.grid
        named = (f"{reprlib.repr(entry.label)} {entry.score:.4g}" for entry in self.top[:TOP])
        return (
            f"<Answer {reprlib.repr(response.image.name)}: {reprlib.repr(response.model)}/{response.version}, "
            f"{response.mode}, grid {grid.rows}×{grid.cols}×{grid.depth}; {', '.join(named) or 'no averages'}>"
        )

    @property
    def top(self) -> list[Entry]:
        """The classes with the highest averages, the highest first."""
        classes, average = self.response.classes, self.response.average
        return [
            Entry(classes[position].index, classes[position].label, average.values[position])
            for position in average.top
        ]

    @property
    def labels(self) -> list[str]:
        """The classes answered with, in the order of `average` and of the grid's last axis."""
        return [entry.label for entry in self.response.classes]

    @property
    def average(self) -> NDArray[np.float64]:
        """The mean over all windows, (classes,)."""
        return np.array(self.response.average.values)

    @property
    def grid(self) -> Scores | None:
        """Every window's scores, (rows, cols, depth), NaN where none was scored; None unless it was asked for.

        The depth is the number of classes, or how many of the highest were asked for.
        """
        grid = self.response.grid
        if not self.response.scores:
            return None
        return scores_of(self.response.scores, grid).reshape(grid.rows, grid.cols, grid.depth)

    @property
    def winners(self) -> NDArray[np.uint32] | None:
        """For a grid of the highest scores: their positions in `labels`, (rows, cols, depth); else None."""
        grid = self.response.grid
        if not self.response.positions:
            return None
        positions = np.frombuffer(self.response.positions, "<u4").astype(np.uint32, copy=False)
        return positions.reshape(grid.rows, grid.cols, grid.depth)

    @property
    def x(self) -> NDArray[np.int64]:
        """Left edges of the windows, (cols,), in pixels of the image."""
        grid = self.response.grid
        return self._edges(grid.cols, grid.origin_x, grid.stride.width, grid.last_x, self._scale[1])

    @property
    def y(self) -> NDArray[np.int64]:
        """Top edges of the windows, (rows,), in pixels of the image."""
        grid = self.response.grid
        return self._edges(grid.rows, grid.origin_y, grid.stride.height, grid.last_y, self._scale[0])

    @property
    def window(self) -> tuple[int, int]:
        """The windows' height and width, in pixels of the image."""
        return self._pixels(self.response.grid.window)

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels of the image between windows, down and across, rounded if the image was scaled."""
        return self._pixels(self.response.grid.stride)

    @property
    def left_out(self) -> tuple[int, int]:
        """Pixels of the image, at the bottom and right, that lie in no window."""
        return self._pixels(self.response.grid.left_out)

    @property
    def _scale(self) -> tuple[float, float]:
        """Pixels of the image for each pixel that was scored, down and across."""
        image, grid = self.response.image, self.response.grid
        if not grid.HasField("scaled"):
            return 1.0, 1.0
        return image.height / grid.scaled.height, image.width / grid.scaled.width

    def _pixels(self, size: model_pb2.Size) -> tuple[int, int]:
        return round(size.height * self._scale[0]), round(size.width * self._scale[1])

    def _edges(self, count: int, origin: int, stride: int, last: int, scale: float) -> NDArray[np.int64]:
        edges = origin + stride * np.arange(count, dtype=np.int64)
        edges[-1] = last
        return np.asarray(np.rint(edges * scale), np.int64)

    def document(self) -> dict[str, Any]:
        """The JSON document; pairs are vertical before horizontal, lengths in pixels, times in milliseconds."""
        response = self.response
        grid, parity, timing = response.grid, response.parity, response.timing
        return {
            "image": {"name": response.image.name, "width": response.image.width, "height": response.image.height},
            "model": response.model,
            "version": response.version,
            "mode": response.mode,
            "mode_reason": response.mode_reason,
            "grid": {
                "rows": grid.rows,
                "cols": grid.cols,
                "stride": list(self.stride),
                "window": list(self.window),
                "origin": [int(self.y[0]), int(self.x[0])],
                "left_out": list(self.left_out),
                "scored": response.scored_cells,
            },
            "average": {"of": AVERAGES[response.average.of], "top": [_entry(entry) for entry in self.top]},
            "parity": {
                "exact": parity.exact,
                "max_abs_diff": parity.max_abs_diff,
                "top_class_agreement": parity.top_class_agreement if parity.agreement_high else None,
            },
            "warnings": list(response.warnings),
            "timing_ms": {
                "decode": round(timing.decode_ms, 3),
                "queue": round(timing.queue_ms, 3),
                "compute": round(timing.compute_ms, 3),
                "total": round(timing.total_ms, 3),
            },
        }


def plan_document(response: scoring_pb2.ScoreResponse) -> dict[str, Any]:
    """The JSON document of a plan; pairs are vertical before horizontal, lengths in pixels."""
    whole = Answer(response).document()
    plan = response.plan
    views = [
        {
            "image": _pair(view.image),
            "cells": _pair(view.cells),
            "tiles": view.tiles,
            "tile": _pair(view.tile),
            "halo": list(view.halo),
            "phases": view.phases,
            "flip": view.flip,
            "multiply_adds": view.multiply_adds,
            "strip_rows": view.strip_rows,
        }
        for view in plan.views
    ]
    kept = {
        name: whole[name] for name in ("image", "model", "version", "mode", "mode_reason", "grid", "parity", "warnings")
    }
    return kept | {
        "plan": {"file": plan.file, "multiply_adds": plan.multiply_adds, "bytes": plan.bytes, "views": views}
    }


def scores_of(data: bytes, grid: scoring_pb2.GridInfo) -> Scores:
    """Scores out of a message, flat."""
    if grid.holds == scoring_pb2.GRID_AS_FLOAT16:
        return np.frombuffer(data, "<f2").astype(np.float16, copy=False)
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False)


def _pair(size: model_pb2.Size) -> list[int]:
    return [size.height, size.width]


def _entry(entry: Entry) -> dict[str, Any]:
    return {"class": entry.index, "label": entry.label, "score": entry.score}


def failure(name: str, error: Exception) -> dict[str, Any]:
    """What stands for an image that could not be scored."""
    return {"image": {"name": name}, "error": str(error)}
