"""An answer: the averages, the grid, and the JSON that `--json` prints."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos import scoring_pb2

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
    def grid(self) -> NDArray[np.float32] | None:
        """Every window's scores, (rows, cols, classes); None unless it was asked for."""
        grid = self.response.grid
        if not self.response.scores:
            return None
        scores = np.frombuffer(self.response.scores, "<f4").astype(np.float32, copy=False)
        return scores.reshape(grid.rows, grid.cols, len(self.response.classes))

    def document(self) -> dict[str, Any]:
        """The JSON document; pairs are vertical before horizontal, lengths in pixels, times in milliseconds."""
        response = self.response
        grid, timing = response.grid, response.timing
        return {
            "image": {"name": response.image.name, "width": response.image.width, "height": response.image.height},
            "model": response.model,
            "version": response.version,
            "mode": response.mode,
            "grid": {
                "rows": grid.rows,
                "cols": grid.cols,
                "stride": [grid.stride.height, grid.stride.width],
                "window": [grid.window.height, grid.window.width],
                "origin": [grid.origin_y, grid.origin_x],
            },
            "average": {"of": AVERAGES[response.average.of], "top": [_entry(entry) for entry in self.top]},
            "parity": {"exact": response.parity.exact, "max_abs_diff": response.parity.max_abs_diff},
            "timing_ms": {
                "decode": round(timing.decode_ms, 3),
                "queue": round(timing.queue_ms, 3),
                "compute": round(timing.compute_ms, 3),
                "total": round(timing.total_ms, 3),
            },
        }


def _entry(entry: Entry) -> dict[str, Any]:
    return {"class": entry.index, "label": entry.label, "score": entry.score}


def failure(name: str, error: Exception) -> dict[str, Any]:
    """What stands for an image that could not be scored."""
    return {"image": {"name": name}, "error": str(error)}
