"""What the scripts with Triton's clients have in common: the images that they send, and how they read answers."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

Answer = dict[str, Any]

address, model, page = sys.argv[1], sys.argv[2], Path(sys.argv[3])
encoded = np.array([page.read_bytes()], object)
windows = np.random.default_rng(0).integers(0, 256, (3, 90, 110, 1), np.uint8)


def read(result: Any) -> Answer:  # noqa: ANN401 (of the client by gRPC or by HTTP)
    """Return the contents of an answer."""
    scores, average = result.as_numpy("scores"), result.as_numpy("average")
    return {"shape": list(scores.shape), "sum": float(scores.sum(dtype=np.float64)), "average": average.tolist()}


def read_same(results: Sequence[Any]) -> Answer:
    """Return the contents that all answers have."""
    answers = [read(result) for result in results]
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def refusal(call: Callable[[], object]) -> str:
    """Return the error message of a call that is refused."""
    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    raise AssertionError("expected an error")
