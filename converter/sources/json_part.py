"""Parses JSON that is a part of a file, with a limit on its size."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def parse_json(text: NDArray[np.uint8], most: int, what: str) -> Any:  # noqa: ANN401 (whatever the JSON holds)
    """Return the value in JSON of at most `most` bytes; raises ValueError, which names `what` the JSON is."""
    if len(text) > most:
        raise ValueError(f"expected {what} of at most {most >> 20} MiB")
    return json.loads(bytes(text))
