"""Answers as the JSON that `--json` prints."""

from typing import Any

from protos import scoring_pb2

AVERAGES = {
    scoring_pb2.AVERAGE_OF_SCORES: "scores",
    scoring_pb2.AVERAGE_OF_PROBABILITIES: "probabilities",
}


def document(response: scoring_pb2.ScoreResponse) -> dict[str, Any]:
    """One image's answer; pairs are vertical before horizontal, lengths in pixels, times in milliseconds."""
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
        "average": {"of": AVERAGES[response.average.of], "top": top(response)},
        "parity": {"exact": response.parity.exact, "max_abs_diff": response.parity.max_abs_diff},
        "timing_ms": {
            "decode": round(timing.decode_ms, 3),
            "queue": round(timing.queue_ms, 3),
            "compute": round(timing.compute_ms, 3),
            "total": round(timing.total_ms, 3),
        },
    }


def top(response: scoring_pb2.ScoreResponse) -> list[dict[str, Any]]:
    """The highest averages, the highest first."""
    return [
        {
            "class": response.classes[position].index,
            "label": response.classes[position].label,
            "score": response.average.values[position],
        }
        for position in response.average.top
    ]


def failure(name: str, error: Exception) -> dict[str, Any]:
    """What stands for an image that could not be scored."""
    return {"image": {"name": name}, "error": str(error)}
